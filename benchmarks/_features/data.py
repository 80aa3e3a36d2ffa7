"""Made events and labels: the same for a seed on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from mlplat.clock import US_PER_S

START_US = 1_700_006_400 * US_PER_S  # 2023-11-15, midnight UTC
DAY_US = 86_400 * US_PER_S
DAYS = 30
TIME = pl.Datetime("us", "UTC")


def events(rows: int, *, entities: int, values: int, seed: int) -> pl.DataFrame:
    """`user`, `at`, `created`, and `values` floats `f0`, `f1`, ... in no order of time.

    Most become known within a minute. Of a hundred, three are corrections of another row, known at once or up to ten days
    after it, and three share another row's entity and time: of those the row that was created last counts.
    """
    rng = np.random.default_rng(seed)
    user = rng.integers(0, entities, rows)
    at = START_US + rng.integers(0, DAYS * DAY_US, rows)
    created = at + rng.integers(0, 60 * US_PER_S, rows)
    again, other = rng.permutation(rows)[: 2 * (rows * 6 // 100)].reshape(2, -1)
    user[again], at[again] = user[other], at[other]
    late = np.where(
        np.arange(len(again)) % 2, rng.integers(1, 10 * DAY_US, len(again)), rng.integers(1, 60, len(again))
    )
    created[again] = created[other] + late
    return frame(user=user, at=at, created=created, **floats(rng, rows, values))


def labels(rows: int, *, entities: int, seed: int) -> pl.DataFrame:
    """`user` and `at`; some users have no events, and some labels lie before the first or a week behind the last."""
    rng = np.random.default_rng(seed)
    span = (DAYS + 8) * DAY_US
    user = rng.integers(0, entities + entities // 50, rows)
    return frame(user=user, at=START_US - DAY_US + rng.integers(0, span, rows))


def floats(rng: np.random.Generator, rows: int, values: int) -> dict[str, np.ndarray[Any, Any]]:
    return {f"f{i}": rng.random(rows) for i in range(values)}


def frame(**columns: np.ndarray[Any, Any]) -> pl.DataFrame:
    made = pl.DataFrame(columns)
    return made.with_columns(pl.col(name).cast(TIME) for name in ("at", "created") if name in columns)
