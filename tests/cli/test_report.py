from __future__ import annotations

from typing import Any

import polars as pl

from mlplat.cli.report import DECISIONS, lines, table

EMPTY: dict[str, Any] = {
    "home": "/team/.mlplat",
    "format": 1,
    "models": [],
    "endpoints": [],
    "cluster": None,
    "decisions": [],
}


def decision(i: int) -> dict[str, Any]:
    return {"at": f"2013-09-0{i}", "policy": "promoter", "subject": "late", "act": i % 2 == 1, "reason": f"because {i}"}


def test_an_empty_home_says_what_makes_each_thing() -> None:
    text = "\n".join(lines(EMPTY))
    assert text.startswith("home  /team/.mlplat (format 1)")
    assert 'platform.serve("NAME")' in text
    assert "none runs for this home" in text


def test_everything_is_shown_in_aligned_columns() -> None:
    status = EMPTY | {
        "models": [
            {"name": "late", "versions": 3, "gold": 2, "candidate": 3},
            {"name": "a", "versions": 1, "gold": None, "candidate": None},
        ],
        "endpoints": [{"name": "late", "url": "http://127.0.0.1:8000", "version": 2, "alive": False}],
        "cluster": {"nodes": [{"address": "10.0.0.1", "alive": True, "resources": {"CPU": 2.0, "GPU": 1.0}}]},
        "decisions": [decision(i) for i in range(1, 9)],
    }
    found = list(lines(status))
    assert "  late  3 versions  gold 2     candidate 3" in found
    assert "  a     1 version   gold none  candidate none" in found
    assert "  late  version 2  http://127.0.0.1:8000  does not answer" in found
    assert "  10.0.0.1  2 CPU, 1 GPU  alive" in found
    assert found[-1] == "  2013-09-08  promoter  late  hold  because 8"
    assert sum("promoter" in line for line in found) == DECISIONS


def test_columns_with_nothing_in_them_are_left_out_and_of_a_text_its_last_line_is_shown() -> None:
    found = pl.DataFrame(
        {"trial": [3, 1], "loss": [0.123456, None], "error": ["", "line 1\nZeroDivisionError"], "odd": ["", ""]}
    )
    shown = list(table("trials", "none yet", found))[2:]
    assert [line.split() for line in shown] == [
        ["trial", "loss", "error"],
        ["3", "0.1235", "-"],
        ["1", "-", "ZeroDivisionError"],
    ]
    assert list(table("trials", "none yet", found.clear())) == ["", "trials  (none yet)"]
