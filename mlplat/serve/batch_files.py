"""The answers to a batch as a folder of Parquet files that is whole or not there, at a path or a URL.

    part-000000.parquet ... the rows, in the order of the table
    _SUCCESS                what answered, and how many rows, as JSON; written last

Files are written into a draft. A local one becomes the folder by its name, in one step. At a URL the files of a draft, which
lies in the folder under a name that readers pass over, are moved up once all are there; until `_SUCCESS` is there again, the
folder is not whole. A repeat begins anew, so that no row is there twice.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlplat.disk import sync
from mlplat.errors import InvalidInput, Refused, Unavailable
from mlplat.features.files import file_system

SUCCESS = "_SUCCESS"
_OLD = "-old"
_OURS = re.compile(rf"part-\d+\.parquet|{SUCCESS}|_draft-.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Files on their way, in the folder `at`. Goes from process to process."""

    at: str

    def write(self, number: int, frames: Iterable[pl.DataFrame]) -> int:
        """The file of a number, begun anew; how many rows it has. There is at least one frame."""
        system, folder = file_system(self.at)
        path, rows, tables = f"{folder}/{name_of(number)}", 0, map(_arrow, frames)
        first = next(tables)
        with (
            _unavailable(self.at),
            system.open_output_stream(path) as sink,
            pq.ParquetWriter(sink, first.schema) as writer,
        ):
            for table in chain([first], tables):
                writer.write_table(table)
                rows += table.num_rows
        if isinstance(system, pafs.LocalFileSystem):
            sync(Path(path))
        return rows


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def name_of(number: int) -> str:
    return f"part-{number:06}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The folder `where`: an absolute path, or a URL."""

    where: str

    @classmethod
    def of(cls, to: str | Path) -> Target:
        """`Refused` for a folder that has other things in it, `InvalidInput` for a file."""
        where = str(to)
        if "://" not in where:
            where = str(Path(where).expanduser().absolute())
        target = cls(where=where.rstrip("/"))
        for name in target.names():
            if _OURS.fullmatch(name) is None:
                raise Refused(
                    f"to={where!r} has other things in it, such as {name!r}: give an empty folder or a new one"
                )
        return target

    @property
    def local(self) -> bool:
        return "://" not in self.where

    def names(self) -> list[str]:
        """What is in it; nothing, if it is not there."""
        with _unavailable(self.where):
            system, path = file_system(self.where)
            if system.get_file_info(path).type == pafs.FileType.File:
                raise InvalidInput(f"to={self.where!r} is a file: give a folder")
            found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            return sorted(info.base_name for info in found)

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A new one, removed at the end unless it was published. Those that killed processes left are removed too."""
        with _local_draft(Path(self.where)) if self.local else self._remote_draft() as draft:
            yield draft

    def publish(self, draft: Draft, files: int, said: Mapping[str, Any]) -> None:
        """In the place of what is there. `Unavailable` if one of the files is not."""
        system, folder = file_system(draft.at)
        names = [name_of(number) for number in range(files)]
        with _unavailable(self.where):
            there = {info.base_name for info in system.get_file_info(pafs.FileSelector(folder))}
            if absent := [name for name in names if name not in there]:
                raise Unavailable(
                    f"to={self.where!r}: {absent[0]} was written by a process whose disk this one does not see: give a folder "
                    "that all nodes share, or a URL"
                )
            for name in there - set(names):
                system.delete_file(f"{folder}/{name}")
            content = orjson.dumps({**said, "files": names}, option=orjson.OPT_INDENT_2)
            _put(system, f"{folder}/{SUCCESS}", content)
            if self.local:
                _swap(Path(folder), Path(self.where))
            else:
                self._move_up(folder, names, content)

    @contextmanager
    def _remote_draft(self) -> Iterator[Draft]:
        draft = Draft(at=f"{self.where}/_draft-{uuid4().hex[:12]}")
        system, folder = file_system(draft.at)
        with _unavailable(self.where):
            system.create_dir(folder)
        try:
            yield draft
        finally:
            with suppress(pa.ArrowException, OSError):
                system.delete_dir(folder)

    def _move_up(self, draft: str, names: list[str], content: bytes) -> None:
        system, path = file_system(self.where)
        for old in [SUCCESS, *(name for name in self.names() if name.startswith("part-"))]:
            if system.get_file_info(f"{path}/{old}").type == pafs.FileType.File:
                system.delete_file(f"{path}/{old}")
        for name in names:
            system.move(f"{draft}/{name}", f"{path}/{name}")
        _put(system, f"{path}/{SUCCESS}", content)
        for left in self.names():
            if left.startswith("_draft-"):
                system.delete_dir(f"{path}/{left}")


@contextmanager
def _local_draft(target: Path) -> Iterator[Draft]:
    """A folder beside the target: a living process holds the lock on it."""
    prefix = f".{target.name}.draft-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{prefix}*"):
            if left.name.endswith(_OLD) and not target.exists():
                left.rename(target)  # killed between the two steps of a swap
            else:
                _remove_if_dead(left)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise InvalidInput(f"to={str(target)!r} cannot be written: {error}") from None
    folder.chmod(0o755)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield Draft(at=str(folder))
    finally:
        with suppress(
            FileNotFoundError
        ):  # by its name first: a process that is being killed may still make files in it
            shutil.rmtree(folder.rename(f"{folder}-gone"), ignore_errors=True)
        os.close(held)


def _remove_if_dead(folder: Path) -> None:
    with suppress(FileNotFoundError):
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(held)


def _swap(draft: Path, target: Path) -> None:
    sync(draft)
    old = draft.with_name(f"{draft.name}{_OLD}")
    with suppress(FileNotFoundError):
        target.rename(old)
    draft.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _put(system: pafs.FileSystem, path: str, content: bytes) -> None:
    with system.open_output_stream(path) as sink:
        sink.write(content)
    if isinstance(system, pafs.LocalFileSystem):
        sync(Path(path))


@contextmanager
def _unavailable(where: str) -> Iterator[None]:
    """What a file system raises, as ours."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Unavailable(f"{where!r} does not answer as it should: {error}") from None
