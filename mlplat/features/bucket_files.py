"""The files of a join in buckets: Arrow streams in a folder that is gone when the join is, however it ends."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mlplat.features.tables import locked

Ints = npt.NDArray[np.int64]

_LIVE = "lock"


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A new folder under `root`, removed at the end. Those of processes that were killed are removed at the start: a
    living one holds the lock in its folder."""
    with locked(root / _LIVE):
        for left in root.glob("join-*"):
            _remove_if_dead(left)
        folder = Path(tempfile.mkdtemp(prefix="join-", dir=root))
        held = (folder / _LIVE).open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        _remove(folder)
        held.close()


def _remove_if_dead(folder: Path) -> None:
    with (folder / _LIVE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        _remove(folder)


def _remove(folder: Path) -> None:
    """First by name: a process that is being killed may still make files in it."""
    shutil.rmtree(folder.rename(folder.with_name(folder.name + "-")))


def scatter(frames: Iterable[pl.DataFrame], numbers: Callable[[pl.DataFrame], Ints], paths: Sequence[Path]) -> None:
    """Write each row to the path of its number. A path that gets no row is not made."""
    with ExitStack() as stack:
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        for frame in frames:
            of_row = numbers(frame)
            order = np.argsort(of_row, kind="stable")
            table = arrow(frame[order])
            found, starts = np.unique(of_row[order], return_index=True)
            for number, start, end in zip(found.tolist(), starts, [*starts[1:], len(order)], strict=True):
                if number not in writers:
                    writers[number] = stack.enter_context(writing(paths[number], table.schema))
                writers[number].write_table(table.slice(start, end - start))


def arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatchStreamWriter]:
    """Begins anew what is there: a task that is run again, after its process died, does all of it again."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        yield writer


def batches(paths: Iterable[Path]) -> Iterator[pl.DataFrame]:
    """What was written to those of the paths that are there, a batch at a time."""
    for path in paths:
        if path.exists():
            with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    frame = pl.from_arrow(batch)
                    assert isinstance(frame, pl.DataFrame)
                    yield frame


def whole(paths: Iterable[Path], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=schema), *batches(paths)], rechunk=True)


def column(paths: Iterable[Path], name: str) -> pl.Series:
    """One column of all the files: no more than that is read."""
    parts: list[pa.ChunkedArray] = []
    for path in paths:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            parts += stream.read_all().column(name).chunks
    return pl.Series(name, pa.chunked_array(parts), dtype=None)


def mapped(values: pl.Series, path: Path) -> pl.Series:
    """The values as a file, mapped: the system may take their memory back. They stay after the file is removed."""
    table = arrow(values.to_frame().rechunk())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return pl.Series(values.name, stream.read_all().column(0))
