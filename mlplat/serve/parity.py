"""Did the endpoint see the features that the tables give? Its log against the same questions asked in batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from mlplat.features.parity import differing_rows
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.serve.log import asked_column

ASKED_AT = "_asked_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Of `rows` logged predictions, how many had other features in batch, by their bytes, and in which features; and the
    greatest difference of an output; another class is a difference of 1. `first` is the id of the first that differs."""

    rows: int
    differing: int
    by_feature: Mapping[str, int]
    first: str | None
    max_abs_diff: float

    def __bool__(self) -> bool:
        return self.differing == 0


def asked(log: pl.DataFrame, signature: Signature) -> pl.DataFrame:
    """What callers asked, as rows for a join: entity keys and request fields under their own names, and the moment."""
    names = dict.fromkeys(f.name for f in (*signature.entities, *signature.request))
    return log.select(pl.col("at").alias(ASKED_AT), *(pl.col(asked_column(name)).alias(name) for name in names))


def as_seen(
    log: pl.DataFrame, batch: pl.DataFrame, signature: Signature, *, kept: Callable[[], pl.DataFrame]
) -> pl.DataFrame:
    """`batch` as an endpoint sees it that keeps what has expired: where that differs from the log, it is what `kept` gives, the
    same rows with such features as they were. Asked only if there are any."""
    values: pl.DataFrame | None = None
    for ref in signature.features:
        expired = (log[f"status.{ref.view}"] == "expired").fill_null(value=False)
        if not expired.any():
            continue
        differing = differing_rows(log, batch, [ref])
        wanted = expired & pl.Series(range(log.height), dtype=pl.Int64).is_in(differing)
        if wanted.any():
            values = kept() if values is None else values
            batch = batch.with_columns(
                pl.when(wanted).then(values[column]).otherwise(batch[column]).alias(column) for column in ref.columns()
            )
    return batch


def compare(log: pl.DataFrame, batch: pl.DataFrame, signature: Signature) -> Parity:
    """`log` and `batch` row by row: features as `view.feature`; outputs as `output.NAME` and as `NAME`."""
    by_feature = {
        column: len(at)
        for ref in signature.features
        for column, one in zip(ref.columns(), ref.fields, strict=True)
        if (at := differing_rows(log, batch, [_only(ref, one)]))
    }
    rows = differing_rows(log, batch, signature.features)
    gaps = [_gap(log[f"output.{f.name}"], batch[f.name], f) for f in signature.outputs] if log.height else []
    return Parity(
        rows=log.height,
        differing=len(rows),
        by_feature=by_feature,
        first=str(log["prediction_id"][rows[0]]) if rows else None,
        max_abs_diff=max(gaps, default=0.0),
    )


def _gap(logged: pl.Series, found: pl.Series, output: Field) -> float:
    gap = (logged - found).abs().max() if output.dtype == "float64" else logged.ne_missing(found).max()
    return float(gap) if isinstance(gap, int | float) else 0.0


def _only(ref: FeatureRef, feature: Field) -> FeatureRef:
    return replace(ref, fields=(feature,))


def merged(parts: Sequence[Parity]) -> Parity:
    names = dict.fromkeys(name for part in parts for name in part.by_feature)
    return Parity(
        rows=sum(part.rows for part in parts),
        differing=sum(part.differing for part in parts),
        by_feature={name: sum(part.by_feature.get(name, 0) for part in parts) for name in names},
        first=next((part.first for part in parts if part.first is not None), None),
        max_abs_diff=max((part.max_abs_diff for part in parts), default=0.0),
    )
