"""What really happened after a prediction, as it becomes known: late, again, or never.

    HOME/outcomes/NAME/*.parquet: prediction_id, value, known_at

Files appear whole; the same outcomes again are the same file.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import polars as pl

from mlplat.disk import write_atomically
from mlplat.errors import InvalidInput

_SCHEMA = pl.Schema({"prediction_id": pl.String(), "value": pl.Float64(), "known_at": pl.Datetime("us", "UTC")})


def put(home: Path, name: str, outcomes: pl.DataFrame, *, now_us: int) -> int:
    """Keep outcomes by `prediction_id`; how many there are. The one that is known last counts. A value is 0 or 1, or a number;
    null is refused: what is not known is left out.

    `InvalidInput` names what is wrong with the columns.
    """
    missing = [column for column in ("prediction_id", "value") if column not in outcomes.columns]
    if missing:
        raise InvalidInput(f"outcomes need the column {missing[0]!r}: there are {', '.join(outcomes.columns)}")
    try:
        found = outcomes.select(pl.col("prediction_id").cast(pl.String), pl.col("value").cast(pl.Float64))
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"outcomes: prediction_id must be texts and value numbers: {error}") from None
    nulls = found.filter(pl.any_horizontal(pl.all().is_null() | pl.col("value").is_nan()))
    if nulls.height:
        raise InvalidInput(f"outcomes: {nulls.height} rows have no prediction_id or no value: leave them out")
    if not found.height:
        return 0
    digest = hashlib.sha256(found.write_csv().encode()).hexdigest()[:24]
    path = home / "outcomes" / name / f"{digest}.parquet"
    if not path.exists():
        known = found.with_columns(pl.lit(now_us).cast(pl.Datetime("us", "UTC")).alias("known_at"))
        raw = io.BytesIO()
        known.write_parquet(raw)
        write_atomically(path, raw.getvalue())
    return found.height


def read(home: Path, name: str) -> pl.DataFrame:
    """`prediction_id`, `value` and `known_at`, one row for each prediction whose outcome is known."""
    files = sorted((home / "outcomes" / name).glob("*.parquet"))
    if not files:
        return pl.DataFrame(schema=_SCHEMA)
    whole = pl.concat([pl.read_parquet(path) for path in files])
    return whole.sort("known_at", maintain_order=True).unique("prediction_id", keep="last", maintain_order=True)
