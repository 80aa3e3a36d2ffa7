"""Delta tables of events."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from mlplat.errors import Conflict
from mlplat.features.table_version import TableVersion, arrow_schema
from mlplat.features.tables import EventTable
from tests.features.support import after


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"at": [after(i) for i in ids], "price": [float(i) for i in ids], "_id": list(ids)})


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    table = EventTable(tmp_path / "sales")
    assert (table.version(), table.transaction("x"), table.schema()) == (-1, -1, None)
    assert table.read().is_empty()
    assert table.now().new_rows(rows(1, 1), ["at", "_id"]).height == 1


def test_what_is_read_can_begin_after_a_batch(tmp_path: Path) -> None:
    table = EventTable(tmp_path / "sales")
    with table.lock():
        assert table.append(rows(1, 2), app="a", number=7) == 0
        assert table.append(rows(3), app="b", number=1) == 1
    assert sorted(table.read(["_id"])["_id"].to_list()) == [1, 2, 3]
    assert table.read(["_id"], after_batch=0)["_id"].to_list() == [3]
    assert table.read(after_batch=1).is_empty()
    assert (table.transaction("a"), table.transaction("b")) == (7, 1)
    assert dict(table.schema() or {}) == {"at": pl.Datetime("us", "UTC"), "price": pl.Float64()}


def test_an_event_is_new_if_its_time_and_id_are(tmp_path: Path) -> None:
    table = EventTable(tmp_path / "sales")
    table.append(rows(1, 2), app="a", number=1)
    moved = rows(1).with_columns(at=pl.lit(after(9)).dt.cast_time_unit("us"))
    given = pl.concat([rows(2, 3), moved, rows(3).with_columns(price=pl.lit(0.0))])
    fresh = table.now().new_rows(given, ["at", "_id"])
    assert fresh["price"].to_list() == [3.0, 1.0]


def test_of_two_that_make_a_table_the_second_reads_again(tmp_path: Path) -> None:
    table = EventTable(tmp_path / "sales")
    nothing = table.now()
    table.append(rows(1), app="a", number=1)
    with pytest.raises(Conflict, match="table 'sales': another writer was first"):
        nothing.commit(arrow_schema(rows(2)), [rows(2)], ids={})
    asked: list[int] = []

    def fresh(now: TableVersion) -> tuple[pa.Schema, list[pl.DataFrame]]:
        asked.append(now.version())
        if len(asked) == 1:
            table.append(rows(2), app="b", number=1)
        return arrow_schema(rows(3)), [rows(3)]

    assert table.add(fresh, app="c", number=1) == 2
    assert asked == [0, 1]
    assert table.read().select("_id", "_batch").sort("_id").rows() == [(1, 0), (2, 1), (3, 2)]
    assert table.add(fresh, app="c", number=1) == 2


@pytest.mark.slow
def test_a_writer_who_is_never_first_is_told(tmp_path: Path) -> None:
    table = EventTable(tmp_path / "sales")

    def fresh(now: TableVersion) -> tuple[pa.Schema, list[pl.DataFrame]]:
        table.append(rows(now.version()), app="other", number=now.version() + 2)
        return arrow_schema(rows(0)), [rows(0)]

    with pytest.raises(Conflict, match="other writers were first 20 times: ingest the batch again"):
        table.add(fresh)


def test_half_a_write_is_no_write(tmp_path: Path) -> None:
    table = EventTable(tmp_path / "sales")
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales" / "part-0.parquet").write_bytes(b"half")
    assert table.version() == -1
    table.append(rows(1), app="a", number=1)
    assert table.read().height == 1
