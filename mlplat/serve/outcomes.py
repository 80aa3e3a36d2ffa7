"""What really happened after a prediction, as it becomes known: late, again, or never. Events of the source `outcomes.NAME`.

Homes of older releases have them in files, HOME/outcomes/NAME/*.parquet; these are brought into the source when it is first
read.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mlplat.errors import InvalidInput
from mlplat.features.store import FeatureStore
from mlplat.model.task import Task
from mlplat.serve.sources import add, landed, outcomes_of

_SHOWN = 5
_TIME = pl.Datetime("us", "UTC")


def checked(outcomes: pl.DataFrame, task: Task) -> pl.DataFrame:
    """`prediction_id` and `value`, the last one of each prediction: by the task 0 or 1, a class, or a number. Only classes that
    are texts are no float64. Null is refused: what is not known is left out.

    `InvalidInput` names the column, or the rows, and what is wrong.
    """
    missing = [column for column in ("prediction_id", "value") if column not in outcomes.columns]
    if missing:
        raise InvalidInput(f"outcomes need the column {missing[0]!r}: there are {', '.join(outcomes.columns)}")
    texts = isinstance(next(iter(task.classes), None), str)
    try:
        found = outcomes.select(
            pl.col("prediction_id").cast(pl.String), pl.col("value").cast(pl.String if texts else pl.Float64)
        )
    except pl.exceptions.PolarsError as error:
        kind = "texts" if texts else "numbers"
        raise InvalidInput(f"outcomes: prediction_id must be texts and value {kind}: {error}") from None
    found = found if texts else found.with_columns(pl.col("value").fill_nan(None))
    nulls = found.filter(pl.any_horizontal(pl.all().is_null()))
    if nulls.height:
        raise InvalidInput(f"outcomes: {nulls.height} rows have no prediction_id or no value: leave them out")
    _check_values(found["value"], task)
    return found.unique("prediction_id", keep="last", maintain_order=True)


def put(features: FeatureStore, home: Path, name: str, outcomes: pl.DataFrame, *, now_us: int) -> None:
    """Keep what `checked` gave. What is known already is not added again."""
    known = read(features, home, name)
    if known.height and known.schema["value"] != outcomes.schema["value"]:
        raise InvalidInput(
            f"outcomes: value is {outcomes.schema['value']}, and those that {name!r} has are {known.schema['value']}: "
            "serve models of another task under a name of their own"
        )
    new = outcomes.join(known, on=["prediction_id", "value"], how="anti") if known.height else outcomes
    if new.height:
        # What is told later is known later, whatever the clock says: the last one counts.
        newest = known["known_at"].to_physical().max() if known.height else None
        at_us = max(now_us, newest + 1) if isinstance(newest, int) else now_us
        add(features, outcomes_of(name), new.with_columns(pl.lit(at_us).cast(_TIME).alias("known_at")))


def read(features: FeatureStore, home: Path, name: str) -> pl.DataFrame:
    """`prediction_id`, `value` and `known_at`, one row for each prediction whose outcome is known: what was known last."""
    events = landed(features, outcomes_of(name), home / "outcomes" / name)
    if not events.width:
        return pl.DataFrame(schema={"prediction_id": pl.String, "value": pl.Float64, "known_at": _TIME})
    columns = ["prediction_id", "value", "known_at"]
    return events.select(columns).unique("prediction_id", keep="last", maintain_order=True)


def _check_values(values: pl.Series, task: Task) -> None:
    if task.kind == "regression":
        wrong, wanted = values.is_infinite(), "a finite number"
    elif task.kind == "binary":
        wrong, wanted = ~values.is_in([0.0, 1.0]), "0 or 1"
    else:
        known = pl.Series(task.classes).cast(values.dtype)
        wrong, wanted = ~values.is_in(known.implode()), f"one of the classes {', '.join(map(str, task.classes))}"
    if wrong.any():
        rows = wrong.arg_true()
        shown = ", ".join(map(str, rows.head(_SHOWN).to_list())) + (", ..." if len(rows) > _SHOWN else "")
        value = values[rows[0]]
        said = f"{value:g}" if isinstance(value, float) else repr(value)
        raise InvalidInput(f"outcomes: value is {said}, and must be {wanted} ({len(rows)} rows: {shown})")
