"""Folders of tables as Hive and Spark write them, on every kind of file system, and HDFS through Hadoop's client."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.fs as pafs
import pytest

from mlplat.errors import InvalidInput
from mlplat.features.files import file_system
from mlplat.features.read_data import to_frame


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """The table `orders`, of which Hive wrote one partition (no endings) and Spark the other, with what both leave about."""
    table = tmp_path / "warehouse" / "orders"
    files = {
        "month=2026-01/day=05/000000_0": [1, 2],
        "month=2026-01/day=05/000000_0_copy_1": [3],
        "month=2026-02/day=__HIVE_DEFAULT_PARTITION__/part-00000-1a2b.c000.snappy.parquet": [4],
    }
    for name, ids in files.items():
        path = table / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"id": ids}).write_parquet(path)
    for name in ("_SUCCESS", "month=2026-01/day=05/.000000_0.crc", "month=2026-01/day=05/000001_0", "README"):
        (table / name).touch()
    half = table / "_temporary/0/month=2026-03"
    half.mkdir(parents=True)
    pl.DataFrame({"id": [99]}).write_parquet(half / "part-00000.parquet")
    return tmp_path


class Hadoop:
    """What is asked of `pyarrow.fs.HadoopFileSystem`: a cluster whose files are this machine's. Its paths are absolute, too."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str | None]] = []

    def __call__(self, host: str, port: int, *, user: str | None) -> pafs.FileSystem:
        self.asked.append((host, port, user))
        return pafs.LocalFileSystem()


@pytest.fixture
def hadoop(monkeypatch: pytest.MonkeyPatch) -> Hadoop:
    made = Hadoop()
    monkeypatch.setattr(pafs, "HadoopFileSystem", made)
    return made


ROWS = [(1, "2026-01", 5), (2, "2026-01", 5), (3, "2026-01", 5), (4, "2026-02", None)]


def test_a_table_of_hive_is_its_files_and_its_partitions(warehouse: Path) -> None:
    found = to_frame(warehouse / "warehouse" / "orders")
    assert found.columns == ["id", "month", "day"]
    assert (found.schema["month"], found.schema["day"].is_integer()) == (pl.String(), True)
    assert found.rows() == ROWS


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("hdfs://namenode:8020{}/orders/", ("namenode", 8020, None)),
        ("hdfs://ann@Lake{}/orders", ("Lake", 0, "ann")),
        ("hdfs://{}/orders", ("default", 0, None)),
        ("hdfs://namenode{}/orders/month=*/**/*", ("namenode", 0, None)),
    ],
)
def test_a_table_on_hdfs_is_read_in_the_same_way(
    hadoop: Hadoop, warehouse: Path, where: str, asked: tuple[object, ...]
) -> None:
    assert to_frame(where.format(warehouse / "warehouse")).rows() == ROWS
    assert set(hadoop.asked) == {asked}


def test_what_hdfs_lacks_is_told_without_the_places_where_it_was_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object, **__: object) -> None:
        raise OSError("Unable to load libjvm\ndlopen(/usr/lib/jvm/libjvm.so) failed")

    monkeypatch.setattr(pafs, "HadoopFileSystem", unable)
    with pytest.raises(
        InvalidInput, match=r"'hdfs://lake/orders' cannot be reached: Unable to load libjvm\. .*CLASSPATH"
    ) as told:
        file_system("hdfs://lake/orders")
    assert "dlopen" not in str(told.value)


def test_partitions_of_csv_files_have_the_same_nulls_and_signs(tmp_path: Path) -> None:
    for value, number in (("__HIVE_DEFAULT_PARTITION__", 1), ("x%3Ay", 2)):
        folder = tmp_path / f"zone={value}"
        folder.mkdir()
        frame = pl.DataFrame({"id": [number]})
        frame.write_csv(folder / "000000.csv")
        (tmp_path / "parquet" / folder.name).mkdir(parents=True)
        frame.write_parquet(tmp_path / "parquet" / folder.name / "000000_0")
    expected = [(1, None), (2, "x:y")]
    assert to_frame(tmp_path / "*" / "*.csv").sort("id").rows() == expected
    assert to_frame(tmp_path / "parquet").sort("id").rows() == expected


def test_files_in_orc_are_refused_with_two_ways_out(warehouse: Path) -> None:
    (warehouse / "warehouse/orders/month=2026-02/000001_0").write_bytes(b"ORC\x00 and more")
    with pytest.raises(
        InvalidInput, match=r"has files in ORC, which is not read, such as '.*/000001_0': .* spark\.table"
    ):
        to_frame(warehouse / "warehouse")
