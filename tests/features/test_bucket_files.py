"""The files of a join in buckets are gone when it is, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlplat.features import bucket_files as files

HOLDS = """
import sys, signal
from pathlib import Path
from mlplat.features.bucket_files import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "rows-0-0").write_text("x")
    print(folder, flush=True)
    signal.pause()
"""


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def test_a_folder_is_removed_after_success_and_after_failure(tmp_path: Path) -> None:
    with files.scratch(tmp_path) as folder:
        assert folders(tmp_path) == [folder]
    with pytest.raises(FileNotFoundError), files.scratch(tmp_path) as folder:
        (folder / "deep" / "deeper").mkdir()
    assert folders(tmp_path) == []


@pytest.mark.slow
def test_the_next_join_removes_the_folder_of_a_killed_process_and_leaves_a_living_one(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with files.scratch(tmp_path) as ours:
            assert folders(tmp_path) == sorted([ours, theirs])
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert folders(tmp_path) == [theirs]
    with files.scratch(tmp_path) as ours:
        assert folders(tmp_path) == [ours]


def test_rows_are_scattered_and_read_again(tmp_path: Path) -> None:
    frames = [pl.DataFrame({"n": [0, 1, 2, 1], "text": ["a", None, "ä", ""]}), pl.DataFrame({"n": [1], "text": ["b"]})]
    paths = [tmp_path / str(number) for number in range(4)]
    files.scatter(frames, lambda frame: frame["n"].to_numpy().astype(np.int64), paths)
    assert [path.exists() for path in paths] == [True, True, True, False]
    schema = frames[0].schema
    assert files.whole([paths[1], paths[3]], schema).rows() == [(1, None), (1, ""), (1, "b")]
    assert files.whole([paths[3]], schema).equals(pl.DataFrame(schema=schema))
    assert files.column(paths[:3], "text").to_list() == ["a", None, "", "b", "ä"]


@pytest.mark.parametrize(
    "values",
    [
        pl.Series("x", [1, None, 3]), pl.Series("x", [True, None, False]), pl.Series("x", ["ä", None, "long" * 9]),
        pl.Series("x", [None, 0.5], dtype=pl.Float64), pl.Series("x", [5, None]).cast(pl.Datetime("us", "UTC")),
    ],
    ids=lambda values: str(values.dtype),
)  # fmt: skip
def test_a_mapped_column_is_as_it_was_without_its_file(tmp_path: Path, values: pl.Series) -> None:
    path = tmp_path / "column"
    mapped = files.mapped(values, path)
    path.unlink()
    assert mapped.dtype == values.dtype
    assert mapped.equals(values, check_dtypes=True, null_equal=True)
