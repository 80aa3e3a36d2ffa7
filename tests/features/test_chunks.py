"""Chunks cover the rows behind a place, each once, whatever files they lie in; and none is much too large."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat.features.chunks import ChunkReader, Pending, Place
from mlplat.features.tables import EventTable
from tests.features.support import after

BATCHES = ((40, 3), (7, 7), (300, 1), (1, 1), (5, 5))
"""(rows, different times) of each batch."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EventTable:
    made = EventTable(tmp_path_factory.mktemp("chunks") / "t")
    for number, (rows, times) in enumerate(BATCHES):
        seconds = [i % times - 1_500_000_000 * (number % 2) for i in range(rows)]  # some before 1970
        frame = pl.DataFrame(
            {
                "at": [after(s) for s in seconds],
                "_id": [(i * 7919) % 1000 - 500 for i in range(rows)],
                "x": range(rows),
            },
            schema_overrides={"_id": pl.Int64},
        )
        made.append(frame, app="test", number=number)
    return made


def order(rows: pl.DataFrame) -> list[tuple[int, int, int]]:
    return sorted(rows.select("_batch", pl.col("at").to_physical(), "_id").rows())


@pytest.mark.slow
@settings(max_examples=8)
@given(size=st.integers(1, 400), stop=st.integers(0, 10), second=st.integers(1, 400), upto=st.integers(-1, 6))
def test_chunks_cover_every_row_once_and_go_on_from_any_of_their_ends(
    table: EventTable, size: int, stop: int, second: int, upto: int
) -> None:
    everything = table.read()
    pending = Pending.of(table, "at", since=Place(), upto=upto)
    chunks = pending.chunks(size)
    wanted = order(everything.filter(pl.col("_batch") <= upto))
    assert pending.rows == len(wanted)
    done = chunks[:stop]
    place = done[-1].end if done else Place()
    rest = Pending.of(table, "at", since=place, upto=upto).chunks(second)
    reader = ChunkReader(table=table, time="at", chunks=(*done, *rest))
    pieces = [reader.read(i) for i in range(len(reader.chunks))]
    assert all(piece.height for piece in pieces)
    assert [row for piece in pieces for row in order(piece)] == wanted  # in order: a place has all before it
    assert all(piece.height <= max(size, second) for piece in pieces)


@pytest.mark.slow
def test_the_files_do_not_matter(table: EventTable, tmp_path: Path) -> None:
    copy = EventTable(tmp_path / "t")
    for batch in table.read().sort("_batch", "x").partition_by("_batch"):
        copy.append(batch.drop("_batch"), app="test", number=batch["_batch"][0])
    chunks = tuple(Pending.of(copy, "at", since=Place(), upto=99).chunks(50))
    before = [order(ChunkReader(table=copy, time="at", chunks=chunks).read(i)) for i in range(len(chunks))]
    DeltaTable(str(copy.path)).optimize.compact()
    again = Pending.of(copy, "at", since=Place(), upto=99).chunks(50)
    assert tuple(again) == chunks
    assert [order(ChunkReader(table=copy, time="at", chunks=chunks).read(i)) for i in range(len(chunks))] == before


def test_a_table_that_is_not_there_has_no_chunks(tmp_path: Path) -> None:
    pending = Pending.of(EventTable(tmp_path / "none"), "at", since=Place(), upto=9)
    assert (pending.rows, pending.chunks(10)) == (0, [])


def test_how_many_rows_fit_is_told_by_the_first_of_them(tmp_path: Path) -> None:
    made = EventTable(tmp_path / "t")
    made.append(pl.DataFrame({"at": [after(0)] * 5_000, "_id": range(5_000)}), app="test", number=1)
    pending = Pending.of(made, "at", since=Place(), upto=9)
    assert pending.rows_in(24_000) == 1_000  # 8 bytes of each column, and of the batch
    assert pending.rows_in(1) == 1
