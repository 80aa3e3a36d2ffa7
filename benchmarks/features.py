"""The feature store beside its peers and its floors: joins, the actor pool, online reads, push and backfill."""

from __future__ import annotations

from benchmarks._features import joins, large, online, pool, push
from benchmarks._figures import Measure, main

HAND = "polars by hand"
READ = "p50 of reading 100 entities x 200 features into a matrix"
MEASURES = (
    Measure(
        key="join_small",
        measure="point-in-time join with created and time-to-live, from disk, 100k labels x 500k rows x 10 features",
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
        measure="the same, 100k labels x 500k rows x 10 features, 500 rows an entity",
        unit="s",
        reference_name="Feast 0.67, DuckDB",
        bound=0.10,
        run=joins.feast_duckdb,
    ),
    Measure(
        key="join_feast_default",
        measure="the same, 100k labels x 500k rows x 10 features, 500 rows an entity",
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
    Measure(
        key="join_out_of_core",
        measure="peak memory of the working processes over their idle size, 500k labels x 5 GiB of Arrow, cap 512 MiB",
        unit="GiB",
        reference_name="the cap",
        bound=1.0,
        run=large.join_out_of_core,
    ),
    Measure(
        key="pool_scaling",
        measure="CPU-bound transform, rows per second of two actors",
        unit="rows/s",
        reference_name="one actor",
        bound=1.5,
        at="least",
        run=pool.scaling,
    ),
    Measure(
        key="pool_ray_data",
        measure="CPU-bound transform on two actors, table to table",
        unit="s",
        reference_name="map_batches by hand, two actors",
        bound=1.15,
        run=pool.against_ray_data,
    ),
    Measure(
        key="online_lmdb",
        measure=f"{READ}, embedded",
        unit="ms",
        reference_name="LMDB gets + decode",
        bound=2.0,
        run=online.against_lmdb,
    ),
    Measure(
        key="online_feast_sqlite",
        measure=f"{READ}, embedded, by blocks of 20",
        unit="ms",
        reference_name="Feast 0.67, SQLite",
        bound=0.002,
        run=online.against_feast_sqlite,
    ),
    Measure(
        key="online_redis",
        measure=f"{READ}, on Redis",
        unit="ms",
        reference_name="pipelined MGET + decode",
        bound=1.5,
        run=online.against_redis,
    ),
    Measure(
        key="online_feast_redis",
        measure=f"{READ}, on Redis, by blocks of 20",
        unit="ms",
        reference_name="Feast 0.67, Redis",
        bound=0.01,
        run=online.against_feast_redis,
    ),
    Measure(
        key="push_readable",
        measure="push of one event until it is readable, a transform made inline, p99 (at most 50 ms too)",
        unit="ms",
        reference_name="a durable append + LMDB put",
        bound=3.0,
        run=push.readable,
    ),
    Measure(
        key="backfill_killed",
        measure="5 GiB made by a transform, an actor killed in the middle: wrong, missing or repeated rows",
        unit="rows",
        reference_name=None,
        bound=0.0,
        run=large.backfill_killed,
    ),
)


if __name__ == "__main__":
    main("features", MEASURES)
