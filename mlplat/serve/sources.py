"""What was served under a name, and what came of it, as sources of the feature store: `predictions.NAME` and `outcomes.NAME`.

Replicas write files (`mlplat.serve.log`), because a table takes too long for the path of a request. Whoever reads brings the
files into the table first, and removes them: HOME/log/NAME holds only what nobody has read yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import polars as pl

from mlplat.errors import BatchRefused, unknown
from mlplat.features.definitions import Source
from mlplat.features.description import Description
from mlplat.features.store import FeatureStore
from mlplat.metadata.lock import exclusive
from mlplat.stats.table import TableSketch

COMPACT_EVERY = 64
"""So many commits, and as many small files: reading them takes longer than making one of them."""
_SET_ASIDE = ".refused"
_log = logging.getLogger(__name__)


def predictions_of(name: str) -> Source:
    """One event per row that was answered, or that a shadow was shown, when it came."""
    return Source(
        name=f"predictions.{name}",
        key=("prediction_id",),
        time="received_at",
        id="prediction_id",
        description=f"What was asked of {name!r}, and what was answered.",
    )


def outcomes_of(name: str) -> Source:
    """One event each time that it became known what came of a prediction."""
    return Source(
        name=f"outcomes.{name}",
        key=("prediction_id",),
        time="known_at",
        description=f"What came of the predictions of {name!r}.",
    )


def land(features: FeatureStore, source: Source, folder: Path) -> None:
    """Bring the Parquet files of `folder` into the table of a source.

    A file is removed when its rows are in the table; if this is killed before, they are found there, and not added again. One
    with rows that the table cannot take (other types under the same name, an infinite number) is set aside.
    """
    with _alone(folder):
        _land_all(features, source, folder)


def landed(features: FeatureStore, source: Source, folder: Path) -> pl.DataFrame:
    """All events of a source in order of time, after those in `folder` were brought into its table, and with those that were
    set aside."""
    with _alone(folder):
        _land_all(features, source, folder)
        aside = [pl.read_parquet(path) for path in sorted(folder.glob(f"*{_SET_ASIDE}.parquet"))]
        table = [features.events(source)] if features.columns(source) else []
    whole = _together([*table, *aside])
    return whole.sort(source.time, maintain_order=True) if aside else whole


def add(features: FeatureStore, source: Source, rows: pl.DataFrame) -> None:
    """Rows that are there already are not added again. Raises `BatchRefused`."""
    done = features.ingest(source, rows, new_columns="add")
    if done.table_version % COMPACT_EVERY == COMPACT_EVERY - 1:
        features.compact(source)


def of_arm(
    predictions: pl.DataFrame, source: Source, arm: str, *, since: datetime | None, until: datetime | None
) -> Description:
    """Of the predictions that an arm was asked for in [since, until). `NotFound` if it never was."""
    arms = predictions["arm"].unique().to_list() if predictions.width else []
    if arm not in arms:
        raise unknown(f"arm in {source.name!r}", arm, arms)
    bounds = [pl.col(source.time) >= since] if since is not None else []
    bounds += [pl.col(source.time) < until] if until is not None else []
    rows = predictions.filter(pl.col("arm") == arm, *bounds)
    return Description(
        subject=f"arm {arm!r} of source {source.name!r}", rows=f"{rows.height:,} rows", sketch=TableSketch.of(rows)
    )


def _alone(folder: Path) -> AbstractContextManager[None]:
    return exclusive(folder.with_name(f"{folder.name}.lock"))


def _land_all(features: FeatureStore, source: Source, folder: Path) -> None:
    waiting = [path for path in sorted(folder.glob("*.parquet")) if _SET_ASIDE not in path.suffixes]
    if waiting and not _land(features, source, waiting):
        for path in waiting:  # one bad file must not keep the others out
            if not _land(features, source, [path]):
                path.replace(path.with_suffix(f"{_SET_ASIDE}.parquet"))


def _land(features: FeatureStore, source: Source, paths: Sequence[Path]) -> bool:
    rows = _together(pl.read_parquet(path) for path in paths)
    missing = [pl.lit(None).alias(name) for name in features.columns(source) if name not in rows.columns]
    try:
        add(features, source, rows.with_columns(missing))
    except BatchRefused as error:
        _log.warning("%s: files stay outside the table: %s", source.name, error)
        return False
    for path in paths:
        path.unlink()
    return True


def _together(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Columns that one lacks are null in it; numbers of two types are floats."""
    found = [frame for frame in frames if frame.width]
    return pl.concat(found, how="diagonal_relaxed") if found else pl.DataFrame()
