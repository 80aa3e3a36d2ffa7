"""What a user may hand in as a table: as one frame, or as a stream of frames that need not fit in memory together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mlplat.errors import InvalidInput
from mlplat.features.files import read_files
from mlplat.features.spark import is_spark, spark_batches

CHUNK_ROWS = 500_000


def to_frame(data: Any) -> pl.DataFrame:
    """All of `data` (see `frames`) as one frame."""
    stream = _stream(data, CHUNK_ROWS)
    return _whole(data) if stream is None else _joined(list(stream))


def frames(data: Any) -> Iterator[pl.DataFrame]:
    """`data` in its order, in frames of at most `CHUNK_ROWS` rows; at least one, be it empty.

    It is a polars, pandas or Arrow table, an Arrow dataset or stream of record batches, a Ray Dataset, a Spark DataFrame,
    rows as dicts, or the path or URL of a Parquet or CSV file, a folder of them, or a pattern. Raises `InvalidInput`.
    """
    stream = _stream(data, CHUNK_ROWS)
    return _sized([_whole(data)] if stream is None else stream, CHUNK_ROWS)


def _stream(data: Any, rows: int) -> Iterable[pl.DataFrame] | None:
    """Of what may be larger than memory; None for what is in it."""
    if isinstance(data, str | Path):
        return read_files(str(data), rows)
    if isinstance(data, pl.LazyFrame):
        empty = pl.DataFrame(schema=data.collect_schema())
        return chain([empty], data.collect_batches(chunk_size=rows, maintain_order=True))
    return _batches(data, rows)


def _batches(data: Any, rows: int) -> Iterable[pl.DataFrame] | None:
    """Of what comes as a stream: an Arrow reader or dataset, a Ray Dataset, a Spark DataFrame (known by what it can do)."""
    if isinstance(data, pa.RecordBatchReader):
        return _polars(data, data.schema)
    if hasattr(data, "to_arrow_refs") and hasattr(data, "iter_batches"):
        return _polars(data.iter_batches(batch_format="pyarrow", batch_size=rows), None)
    if is_spark(data):
        return _polars(spark_batches(data), None)
    if hasattr(data, "to_batches") and hasattr(data, "scanner"):
        return _polars(data.to_batches(batch_size=rows), data.schema)
    return None


def _polars(batches: Iterable[Any], schema: pa.Schema | None) -> Iterator[pl.DataFrame]:
    if schema is not None:
        yield pl.DataFrame(schema.empty_table())
    try:
        for batch in batches:
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"the stream of rows broke off: {error}") from None


def _sized(found: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Small frames together, until there are `rows` rows; larger ones in pieces."""
    held: list[pl.DataFrame] = []
    for frame in found:
        for piece in frame.iter_slices(rows) if frame.height > rows else [frame]:
            if held and sum(f.height for f in held) + piece.height > rows:
                yield _joined(held)
                held = []
            held.append(piece)
    yield _joined(held)


def _joined(held: list[pl.DataFrame]) -> pl.DataFrame:
    if not held:
        return pl.DataFrame()
    try:
        return held[0] if len(held) == 1 else pl.concat(held, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"the parts of the table do not fit together: {error}") from None


def _whole(data: Any) -> pl.DataFrame:
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, Sequence):
        return _from_rows(data)
    try:
        return _from_pandas(data) if type(data).__module__.split(".")[0] == "pandas" else pl.DataFrame(data)
    except (TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"{type(data).__name__} is not a table that can be read: {error}") from None


def _from_pandas(data: Any) -> pl.DataFrame:
    """Times with a zone go over as UTC: pandas warns when another library takes them as they are."""
    zoned = [name for name, dtype in data.dtypes.items() if getattr(dtype, "tz", None) is not None]
    plain = data.assign(**{name: data[name].dt.tz_convert(None) for name in zoned})
    return pl.DataFrame(plain).with_columns(pl.col(name).dt.replace_time_zone("UTC") for name in zoned)


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    plain: list[dict[str, Any]] = []
    kinds: dict[str, set[str]] = {}
    for at, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidInput(f"the rows do not make a table: row {at} is {type(row).__name__}, and a row is a dict")
        plain.append({name: _plain(value) for name, value in row.items()})
        for name, value in plain[-1].items():
            if value is not None:
                kinds.setdefault(name, set()).add(_kind(value))
    for name, found in kinds.items():
        if len(found) > 1 and found != {"int", "float"}:
            raise InvalidInput(f"the rows do not make a table: column {name!r} has {' and '.join(sorted(found))}")
    try:
        return pl.DataFrame(plain, infer_schema_length=None, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"the rows do not make a table: {error}") from None


def _plain(value: Any) -> Any:
    """A scalar of numpy or pandas as Python's, and a time with a zone in UTC: one column may have several zones."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, datetime) and value != value:
        return None
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


def _kind(value: Any) -> str:
    if isinstance(value, datetime):
        return "times without a zone" if value.tzinfo is None else "times with a zone"
    return next((kind.__name__ for kind in (bool, int, float, str) if isinstance(value, kind)), type(value).__name__)
