"""The peer: point-in-time joins as an expert writes them in polars, with the same ties, `created` and time-to-live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl


def join(labels: pl.DataFrame, rows: Path, values: Sequence[str], *, ttl: timedelta) -> pl.DataFrame:
    """The labels in their order with the values of the row that counted at each.

    A row is there from the later of its event and its becoming known; those that are there, in that order, but older than
    one before them can never count, so one as-of join finds the row. What is too old is null: all before it are older.
    """
    counting = (
        pl.scan_parquet(rows)
        .select("user", "at", "created", *values)
        .with_columns(_there=pl.max_horizontal("at", "created"))
        .sort("_there", "at", "created")
        .filter(pl.col("at") >= pl.col("at").cum_max().over("user"))
        .rename({"at": "_event"})
        .drop("created")
    )
    fresh = pl.col("at") - pl.col("_event") <= ttl
    return (
        labels.lazy()
        .with_row_index("_row")
        .sort("at")
        .join_asof(counting, left_on="at", right_on="_there", by="user", check_sortedness=False)
        .sort("_row")
        .select(*labels.columns, *(pl.when(fresh).then(pl.col(name)).alias(name) for name in values))
        .collect()
    )


def plain(labels: pl.DataFrame, rows: Path, values: Sequence[str], *, ttl: timedelta) -> pl.DataFrame:
    """The as-of join that leaves out `created`: what a careless hand writes. It sees corrections before they were made."""
    return (
        labels.lazy()
        .with_row_index("_row")
        .sort("at")
        .join_asof(
            pl.scan_parquet(rows).select("user", "at", *values).sort("at"),
            on="at",
            by="user",
            tolerance=ttl,
            check_sortedness=False,
        )
        .sort("_row")
        .drop("_row")
        .collect()
    )
