"""A version of a table, read in pieces."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from mlplat.features.table_scan import Snapshot
from mlplat.features.tables import EventTable


@pytest.fixture
def table(tmp_path: Path) -> EventTable:
    made = EventTable(tmp_path / "t")
    for number in range(3):
        made.append(pl.DataFrame({"a": range(number * 10, number * 10 + 10)}), app="x", number=number)
    return made


def test_shares_are_the_table_in_small_frames(table: EventTable) -> None:
    shares = [list(Snapshot.of(table).scan(["a"], rows=4, share=(i, 2))) for i in range(2)]
    assert sorted(value for share in shares for frame in share for value in frame["a"]) == list(range(30))
    assert max(frame.height for share in shares for frame in share) == 4


def test_a_version_stays_as_it_is(table: EventTable) -> None:
    second = Snapshot(at=str(table.path), version=1)
    assert second.rows() == 20
    assert sum(frame.height for frame in second.scan(["a"], rows=100)) == 20
    assert Snapshot.of(table).rows() == 30
    assert second.schema() == {"a": pl.Int64(), "_batch": pl.Int64()}


def test_a_column_that_came_later_is_null_before(table: EventTable) -> None:
    later = pl.DataFrame({"a": [7], "b": ["new"], "_batch": [3]}).to_arrow(compat_level=pl.CompatLevel.oldest())
    write_deltalake(str(table.path), later, mode="append", schema_mode="merge")
    found = pl.concat(Snapshot.of(table).scan(["b", "a"], rows=100))
    assert found.columns == ["b", "a"]
    assert found.sort("a", "b", nulls_last=True)["b"].to_list() == [*[None] * 7, "new", *[None] * 23]
