"""Spark DataFrames as batches of Arrow, one partition after the other, without an import of pyspark.

Spark's own `toArrow` brings all rows to the driver at once, and the stream that it offers to Arrow (`__arrow_c_stream__` of Spark
4.3, pyspark/sql/interchange.py) fails on a column of timestamps: it builds its schema without a time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from mlplat.errors import InvalidInput

_CARRIED = (
    *("string", "varchar", "char", "boolean", "byte", "short", "integer", "long", "float", "double"),
    *("decimal", "date", "timestamp", "timestamp_ntz", "binary", "void"),
)
"""Spark's names of the types that can be carried. What of them a table holds is checked later, as for batches of any kind."""


def is_spark(data: Any) -> bool:
    """Whether it is a DataFrame of Spark 4, known by what it can do."""
    return hasattr(data, "mapInArrow") and hasattr(data, "toLocalIterator")


def spark_batches(frame: Any) -> Iterator[pa.RecordBatch | pa.Table]:
    """All rows of a Spark DataFrame; an empty table if there are none.

    The driver holds one partition at a time, and Spark runs one job per partition. Raises `InvalidInput` where a column's type
    cannot be carried (nested, intervals, variants), and where Spark fails.
    """
    _check_types(frame)
    count = 0
    try:
        for row in frame.mapInArrow(_as_bytes(), "batch binary").toLocalIterator():
            with pa.ipc.open_stream(bytes(row[0])) as reader:
                yield from reader
            count += 1
        if count == 0:
            yield frame.limit(0).toArrow()
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("pyspark", "py4j"):
            raise
        raise InvalidInput(f"Spark could not make the rows: {_reason(str(error))}") from None


def _reason(text: str) -> str:
    """Of an error with the stack of Java: its innermost cause, in one line."""
    lines = text.splitlines()
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes[-1:] or lines)[0]


def _check_types(frame: Any) -> None:
    wrong = [field for field in frame.schema if field.dataType.typeName() not in _CARRIED]
    if wrong:
        told = ", ".join(f"{field.name!r} is {field.dataType.simpleString()}" for field in wrong)
        first = wrong[0].name
        raise InvalidInput(
            f"columns of the Spark DataFrame cannot be read: {told}. Leave them out, as in frame.drop({first!r}), or take of "
            f"them what is needed, as in frame.withColumn({first!r}, frame[{first!r}].cast('string'))"
        )


def _as_bytes() -> Any:
    """Made here, and not a function of the module: Spark sends it by value then, and its executors need no mlplat."""

    def as_bytes(batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow

        for batch in batches:
            sink = pyarrow.BufferOutputStream()
            with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield pyarrow.RecordBatch.from_pydict({"batch": [sink.getvalue().to_pybytes()]})

    return as_bytes
