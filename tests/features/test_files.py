"""Files that are handed in: folders, partitions, patterns, URLs; and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import write_deltalake

from mlplat.errors import InvalidInput
from mlplat.features import read_data
from mlplat.features.read_data import frames, to_frame

ONE = pl.DataFrame({"shop": ["a", "b"], "units": [1, 2]})


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for day, shops in ((1, "a"), (2, "b"), (12, "c")):
        for kind in ("csv", "parquet"):
            folder = tmp_path / kind / f"day={day}" / "zone=x y"
            folder.mkdir(parents=True)
            frame = pl.DataFrame({"shop": list(shops), "units": [day]})
            frame.write_csv(folder / "p.csv") if kind == "csv" else frame.write_parquet(folder / "p.parquet")
        (tmp_path / "csv" / "_SUCCESS").touch()
        (tmp_path / "csv" / ".hidden.csv").write_text("not,these")
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_folders_of_partitions_are_columns_with_types(lake: Path, kind: str) -> None:
    found = to_frame(lake / kind).sort("units").select("shop", "units", pl.col("day").cast(pl.Int64), "zone")
    assert found.rows() == [("a", 1, 1, "x y"), ("b", 2, 2, "x y"), ("c", 12, 12, "x y")]
    assert to_frame(lake / kind).schema["day"].is_integer()


@pytest.mark.parametrize(
    ("pattern", "units"),
    [
        ("csv/**/*.csv", [1, 2, 12]),
        ("csv/day=1*/**/*.csv", [1, 12]),
        ("csv/day=[12]/*/p.csv", [1, 2]),
        ("csv/day=[!1]/*/p.???", [2]),
        ("parquet/day=?/**", [1, 2]),
        ("*/day=12/**/*.parquet", [12]),
    ],
)
def test_a_pattern_takes_the_files_that_fit_it(lake: Path, pattern: str, units: list[int]) -> None:
    assert sorted(to_frame(str(lake / pattern))["units"].to_list()) == units


def test_files_of_a_folder_may_differ_in_columns_and_in_the_width_of_numbers(tmp_path: Path) -> None:
    ONE.cast({"units": pl.Int16}).write_parquet(tmp_path / "1.parquet")
    ONE.with_columns(pl.lit(0.5).alias("price"), units=pl.lit(None)).write_parquet(tmp_path / "2.parquet")
    ONE.cast({"units": pl.Float64}).write_parquet(tmp_path / "3.parquet")
    found = to_frame(tmp_path)
    assert found["units"].to_list() == [1.0, 2.0, None, None, 1.0, 2.0]
    assert found["price"].to_list() == [None, None, 0.5, 0.5, None, None]
    ONE.with_columns(units=pl.lit("x")).write_parquet(tmp_path / "4.parquet")
    with pytest.raises(InvalidInput, match=r"cannot be read: .*units"):
        to_frame(tmp_path)


def test_the_types_of_csv_files_are_those_of_all_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_data, "CHUNK_ROWS", 100)
    (tmp_path / "1.csv").write_text("x,y\n" + "1,2\n" * 300)
    (tmp_path / "2.csv").write_text("x,y\n" + "1,2\n" * 300 + "0.5,no\n")
    pieces = list(frames(str(tmp_path)))
    assert max(piece.height for piece in pieces) == 100
    assert {tuple(piece.dtypes) for piece in pieces} == {(pl.Float64(), pl.String())}
    assert sum(piece.height for piece in pieces) == 601


def test_any_url_of_fsspec_will_do() -> None:
    with fsspec.open("memory://lake/day=3/one.csv", "w") as file:
        file.write("shop,units\na,1\n")
    assert to_frame("memory://lake/").rows() == [("a", 1, 3)]
    assert to_frame("memory://lake/*/*.csv").rows() == [("a", 1, 3)]
    with pytest.raises(InvalidInput, match="there is no file or folder 'memory://nothing'"):
        to_frame("memory://nothing")


def test_a_folder_that_is_no_data_is_refused(lake: Path) -> None:
    (lake / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"empty' has no .parquet or .csv file"):
        to_frame(lake / "empty")
    with pytest.raises(InvalidInput, match="has Parquet files and CSV files: give a pattern for one kind"):
        to_frame(lake)
    with pytest.raises(InvalidInput, match=r"has no .parquet or .csv file"):
        to_frame(lake / "*.orc")
    write_deltalake(str(lake / "delta"), ONE.to_arrow())
    with pytest.raises(InvalidInput, match=r"is a Delta table, .* hand in deltalake.DeltaTable\(...\)"):
        to_frame(lake / "delta")


class RayLike:
    """What a Ray Dataset can do, as far as it is asked."""

    def to_arrow_refs(self) -> None: ...

    def iter_batches(self, *, batch_format: str, batch_size: int) -> object:
        assert batch_format == "pyarrow"
        return ONE.to_arrow().to_batches(1) if batch_size else None


def test_streams_are_read_to_their_end() -> None:
    empty = ONE.clear()
    for stream in (RayLike(), ONE.lazy(), ONE.to_arrow().to_reader(max_chunksize=1), ds.dataset(ONE.to_arrow())):
        assert to_frame(stream).rows() == ONE.rows(), stream
    for stream in (empty.lazy(), empty.to_arrow().to_reader(), ds.dataset(empty.to_arrow())):
        found = to_frame(stream)
        assert (found.height, found.columns) == (0, ["shop", "units"]), stream


def test_a_stream_that_breaks_off_is_told() -> None:
    def batches() -> object:
        yield ONE.to_arrow().to_batches()[0]
        raise OSError("the disk is gone")

    schema = ONE.to_arrow().schema
    with pytest.raises(InvalidInput, match="the stream of rows broke off: the disk is gone"):
        to_frame(pa.RecordBatchReader.from_batches(schema, batches()))
