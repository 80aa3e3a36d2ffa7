"""A piece of work for each of many numbers, on a pool of actors that come through the death of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa
import ray.cloudpickle as cloudpickle
import ray.exceptions

from mlplat import errors
from mlplat._ray.data import NUMBER, stream
from mlplat._ray.niceness import in_background
from mlplat.config import set_environment
from mlplat.errors import MlplatError, Unavailable

DEATHS = 2
"""So many runs in a row that end with a dead worker before they did anything are no accident."""
_RESULT, _KIND, _MESSAGE = "result", "kind", "message"


class Work(Protocol):
    """Leaves what it makes of a number in files of its own; it may be asked again after its process died."""

    def __call__(self, number: int) -> int: ...


class Worker:
    """Says how many threads polars may have before anything that it unpacks brings polars in. An error of ours is an answer:
    raised here it would come out wrapped in Ray's."""

    def __init__(self, packed: bytes) -> None:
        in_background()
        set_environment({"POLARS_MAX_THREADS": "1"})
        self._work: Work = cloudpickle.loads(packed)

    def __call__(self, numbers: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._done(number) for number in numbers[NUMBER].to_pylist()], schema=_SCHEMA)

    def _done(self, number: int) -> dict[str, Any]:
        try:
            return {NUMBER: number, _RESULT: self._work(number)}
        except MlplatError as error:
            return {NUMBER: number, _KIND: _kind(type(error)), _MESSAGE: str(error)}


def _kind(error: type[MlplatError]) -> str:
    """The nearest of the classes that are made of a message alone."""
    plain = (c for c in error.__mro__ if c.__module__ == errors.__name__ and "__init__" not in vars(c))
    return next(plain).__name__


_SCHEMA = pa.schema([(NUMBER, pa.int32()), (_RESULT, pa.int64()), (_KIND, pa.string()), (_MESSAGE, pa.string())])


def each(work: Work, count: int, *, actors: tuple[int, int], options: Mapping[str, Any]) -> Iterator[int]:
    """What `work` answers to 0, 1, ... `count - 1`, in this order, on so many actors that get these `options`. Raises what of
    ours it raises, of the first number that has something wrong; `Unavailable` if processes die or fail again and again."""
    packed, at, deaths = cloudpickle.dumps(work), 0, 0
    while at < count:
        tables = stream(Worker, packed, range(at, count), actors=actors, options=options)
        try:
            for table in tables:
                for answer in table.to_pylist():
                    if answer[_KIND] is not None:
                        raise getattr(errors, answer[_KIND])(answer[_MESSAGE])
                    assert answer[NUMBER] == at
                    deaths, at = 0, at + 1
                    yield answer[_RESULT]
        except ray.exceptions.RayError as error:
            deaths += 1
            if deaths == DEATHS:
                raise Unavailable(
                    f"a process died or failed, and again: {str(error).strip().splitlines()[-1]}"
                ) from None
        finally:
            tables.close()
