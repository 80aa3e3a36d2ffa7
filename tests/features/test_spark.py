"""Spark DataFrames, by a stand-in that has their parts; `tests/ray/test_spark.py` has the real one."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import cloudpickle
import polars as pl
import pyarrow as pa
import pytest

from mlplat.errors import InvalidInput
from mlplat.features.read_data import frames, to_frame

ROWS = pl.DataFrame({"shop": ["a", "b", "c"], "at": [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]})


@dataclass
class Type:
    name: str

    def typeName(self) -> str:  # noqa: N802 - Spark's name
        return self.name.partition("<")[0]

    def simpleString(self) -> str:  # noqa: N802 - Spark's name
        return self.name


@dataclass
class Field:
    name: str
    dataType: Type  # noqa: N815 - Spark's name


@dataclass
class Frame:
    """A DataFrame of Spark whose partitions are the batches of `table`; `error` comes behind the first of them."""

    table: pa.Table
    types: tuple[str, ...] = ("string", "timestamp")
    error: Exception | None = None
    fetched: list[int] = field(default_factory=list)

    @property
    def schema(self) -> list[Field]:
        return [Field(name, Type(kind)) for name, kind in zip(self.table.column_names, self.types, strict=True)]

    def mapInArrow(self, function: Callable[[Iterable[Any]], Iterator[Any]], schema: str) -> Frame:  # noqa: N802
        assert schema == "batch binary"
        made = pickle.loads(cloudpickle.dumps(function))
        parts = [part for batch in self.table.to_batches() for part in made([batch])]
        table = pa.Table.from_batches(parts, pa.schema([("batch", pa.binary())]))
        return Frame(table, ("binary",), self.error, self.fetched)

    def toLocalIterator(self) -> Iterator[tuple[bytearray]]:  # noqa: N802
        for at, value in enumerate(self.table["batch"].to_pylist()):
            self.fetched.append(at)
            yield (bytearray(value),)
            if self.error is not None:
                raise self.error

    def limit(self, number: int) -> Frame:
        return Frame(self.table.slice(0, number), self.types)

    def toArrow(self) -> pa.Table:  # noqa: N802
        return self.table


def test_the_rows_are_those_of_spark_with_their_types() -> None:
    found = to_frame(Frame(ROWS.to_arrow()))
    assert found.equals(ROWS)
    empty = to_frame(Frame(ROWS.clear().to_arrow()))
    assert (empty.height, empty.schema) == (0, ROWS.schema)


def test_partitions_are_fetched_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlplat.features.read_data.CHUNK_ROWS", 1)
    frame = Frame(pa.concat_tables([ROWS.slice(at, 1).to_arrow() for at in range(3)]))
    parts = frames(frame)
    assert next(parts).equals(ROWS[:1])
    assert frame.fetched == [0, 1]
    assert pl.concat(parts).equals(ROWS[1:])


def test_types_that_cannot_be_carried_are_refused_before_spark_runs() -> None:
    frame = Frame(ROWS.to_arrow(), ("map<string,int>", "interval month"))
    with pytest.raises(
        InvalidInput, match=r"'shop' is map<string,int>, 'at' is interval month\. .*frame\.drop\('shop'\)"
    ):
        to_frame(frame)
    assert frame.fetched == []


def test_a_failure_of_spark_is_told_in_a_line_and_one_of_ours_is_itself() -> None:
    spark = type("SparkRuntimeException", (Exception,), {"__module__": "pyspark.errors.exceptions.captured"})
    with pytest.raises(InvalidInput, match=r"^Spark could not make the rows: \[DIVIDE_BY_ZERO\] Division by zero$"):
        to_frame(Frame(ROWS.to_arrow(), error=spark("[DIVIDE_BY_ZERO] Division by zero\nJVM stacktrace:")))
    java = "An error occurred while calling o1.getResult.\nCaused by: a.B: [X] no such row\n\tat a.B"
    with pytest.raises(InvalidInput, match=r"rows: a\.B: \[X\] no such row$"):
        to_frame(Frame(ROWS.to_arrow(), error=spark(java)))
    with pytest.raises(ZeroDivisionError):
        to_frame(Frame(ROWS.to_arrow(), error=ZeroDivisionError()))


def test_the_executors_of_spark_need_no_mlplat() -> None:
    class Sent(Exception): ...

    class Caught(Frame):
        def mapInArrow(self, function: Callable[..., Any], schema: str) -> Frame:  # noqa: N802
            raise Sent(cloudpickle.dumps(function))

    with pytest.raises(Sent) as sent:
        to_frame(Caught(ROWS.to_arrow()))
    elsewhere = "import pickle, sys; sys.modules['mlplat'] = None; pickle.load(sys.stdin.buffer)"
    done = subprocess.run([sys.executable, "-c", elsewhere], input=sent.value.args[0], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
