"""Pieces of a table are the table, wherever it comes from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mlplat.errors import InvalidInput
from mlplat.features.pieces import FilePiece, in_memory, pieces_of

TABLE = pl.DataFrame({"shop": [f"s{i}" for i in range(100)], "units": list(range(100))})


def forms(folder: Path) -> dict[str, Any]:
    TABLE[:60].write_parquet(folder / "1.parquet", row_group_size=25)
    TABLE[60:].write_parquet(folder / "2.parquet", row_group_size=7)
    (folder / "csv").mkdir()
    TABLE.write_csv(folder / "csv" / "all.csv")
    arrow = TABLE.to_arrow()
    return {
        "parquet": f"{folder}/*.parquet",
        "csv": folder / "csv",
        "frame": TABLE,
        "lazy": TABLE.lazy(),
        "arrow": arrow,
        "pandas": TABLE.to_pandas(),
        "rows": TABLE.to_dicts(),
        "reader": pa.RecordBatchReader.from_batches(arrow.schema, arrow.to_batches(max_chunksize=9)),
        "dataset": ds.dataset(arrow),
    }


@pytest.mark.parametrize("form", ["parquet", "csv", "frame", "lazy", "arrow", "pandas", "rows", "reader", "dataset"])
def test_pieces_together_are_the_table_in_its_order(tmp_path: Path, form: str) -> None:
    data = forms(tmp_path)[form]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pieces = pickle.loads(pickle.dumps(pieces_of(data, rows=30, scratch=scratch)))
    frames = [(piece, list(piece.frames(11))) for piece in pieces]
    assert all(frame.height <= 11 for _, held in frames for frame in held)
    assert pl.concat([frame for _, held in frames for frame in held]).equals(TABLE)
    assert [piece.rows for piece in pieces] == [sum(frame.height for frame in held) for _, held in frames]
    assert [piece.first for piece in pieces] == [sum(p.rows for p in pieces[:i]) for i in range(len(pieces))]
    assert max(piece.rows for piece in pieces) <= 30
    assert (form != "parquet") == bool(list(scratch.iterdir()))


def test_a_table_in_memory_stays_there_if_it_may() -> None:
    (piece,) = pieces_of(pd.DataFrame(TABLE.to_dict(as_series=False)), rows=10, scratch=None)
    assert not isinstance(piece, FilePiece)
    assert [frame.height for frame in piece.frames(40)] == [40, 40, 20]


@pytest.mark.parametrize("form", ["parquet", "frame"])
def test_no_rows_are_one_piece_with_the_columns(tmp_path: Path, form: str) -> None:
    TABLE.clear().write_parquet(tmp_path / "none.parquet")
    data = tmp_path / "none.parquet" if form == "parquet" else TABLE.clear()
    (piece,) = pieces_of(data, rows=10, scratch=None)
    (frame,) = piece.frames(5)
    assert frame.equals(TABLE.clear())


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no file or folder"):
        pieces_of(tmp_path / "absent.parquet", rows=10, scratch=None)


def test_ways_to_a_table_are_no_tables(tmp_path: Path) -> None:
    held = {name: in_memory(data) for name, data in forms(tmp_path).items()}
    assert {name for name, memory in held.items() if memory} == {"frame", "arrow", "pandas", "rows"}
