"""The pictures of the docs are what the plan does now."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from examples import policies

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.mark.slow
def test_the_pictures_of_the_docs_are_what_the_plan_does(tmp_path: Path) -> None:
    found = policies.pictures(tmp_path)
    for name in found:
        assert (tmp_path / name).read_text() == (IMAGES / name).read_text(), f"draw it again: {name} has changed"

    def at(name: str, second: int) -> dict[str, int]:
        spans = found[name].filter(
            (pl.col("began").dt.timestamp("ms") <= second * 1_000)
            & (pl.col("ended").dt.timestamp("ms") > second * 1_000)
        )
        return dict(spans.group_by("tenant").agg(pl.col("workers").sum()).iter_rows())

    assert at("fair.svg", 100) == {"ann": 8}
    assert at("fair.svg", 700) == {"ann": 4, "ben": 4}
    assert sorted(at("fair.svg", 1_300).values()) == [2, 3, 3]
    assert at("weights.svg", 1_300)["ann"] == 4
    assert at("quota.svg", 1_000)["cleo"] == 3
    assert at("production.svg", 700)["production"] == 6
    assert at("idle.svg", 400) == {"ann": 8}
    assert at("idle.svg", 200) == {"search": 8}
