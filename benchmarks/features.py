"""The feature store beside its peers and its floors: joins, the actor pool, online reads, push and backfill."""

from __future__ import annotations

import sys

from benchmarks._features import joins
from benchmarks._features.figures import Measure, measured
from benchmarks._form import arguments, report

HAND = "polars by hand"
MEASURES = (
    Measure(
        key="join_small",
        measure="point-in-time join, read from disk, 100k labels x 500k rows x 10 features",
        unit="s",
        reference_name=HAND,
        bound=1.3,
        run=joins.small,
    ),
    Measure(
        key="join_large",
        measure="the same, 1M labels x 5M rows x 10 features",
        unit="s",
        reference_name=HAND,
        bound=1.3,
        run=joins.large,
    ),
    Measure(
        key="join_feast_duckdb",
        measure="the small join",
        unit="s",
        reference_name="Feast 0.67, DuckDB",
        bound=0.10,
        run=joins.feast_duckdb,
    ),
    Measure(
        key="join_feast_default",
        measure="the small join",
        unit="s",
        reference_name="Feast 0.67, its default engine",
        bound=0.033,
        run=joins.feast_default,
    ),
    Measure(
        key="join_five_views",
        measure="five views at once, 100k labels x 5 x 300k rows x 4 features",
        unit="s",
        reference_name="five joins by hand",
        bound=1.2,
        run=joins.five_views,
    ),
)
KEYS = tuple(measure.key for measure in MEASURES)


def main() -> None:
    args = arguments("features", KEYS)
    done = measured([m for m in MEASURES if args.only in (None, m.key)], quick=args.quick)
    report("features", done.rows, args)
    sys.exit(1 if done.broken else 0)


if __name__ == "__main__":
    main()
