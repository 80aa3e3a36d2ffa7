"""Windows over events that became known late or were corrected: what each question could know at its own time.

The fast path counts every event by its last version. That is right for a question at t if all events of its window were
known, in their last version, by t. The others are answered here from the versions that were visible at t, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from mlplat.features import windows
from mlplat.features.asof import History, Ints, Rows, by_time
from mlplat.features.definitions import View

Floats = npt.NDArray[np.float64]
Bounds = Mapping[int, tuple[Ints, Ints]]

CHUNK_ROWS = 4_000_000
"""So many versions are looked at together."""


def late_windows(
    view: View,
    rows: Rows,
    until: Ints,
    settled: History,
    bounds: Bounds,
    at_us: Ints,
    values: Mapping[str, Floats],
    computed: dict[str, Floats | Ints],
) -> None:
    """Put the right values in the place of those that the fast path, over the `settled` versions, could not know.

    `until` says when each row was superseded; `bounds` and `computed` are the fast path's.
    """
    affected = np.flatnonzero(_affected(rows, settled, bounds, at_us))
    if not len(affected):
        return
    history = by_time(rows)
    queries, moments = rows.queries[affected], at_us[affected]
    versions = windows.bounds(view, history, queries, moments)
    for part in _chunks(versions[max(versions)]):
        inside, seen = _visible(
            rows, until, history, {n: (lo[part], hi[part]) for n, (lo, hi) in versions.items()}, moments[part]
        )
        held = {name: array[inside] for name, array in values.items()}
        for name, found in windows.columns(view.windows, held, seen).items():
            computed[name][affected[part]] = found


def _affected(rows: Rows, settled: History, bounds: Bounds, at_us: Ints) -> npt.NDArray[np.bool_]:
    """Where something in or before the window became known only after t."""
    assert rows.created is not None
    known = pl.DataFrame({"entity": settled.entities, "known": rows.created[settled.order]})
    latest = known.select(pl.col("known").cum_max().over("entity"))["known"].to_numpy()
    lo, hi = bounds[max(bounds)]
    some = hi > lo
    result = np.zeros(len(at_us), dtype=bool)
    result[some] = latest[hi[some] - 1] > at_us[some]
    return result


def _chunks(longest: tuple[Ints, Ints]) -> Iterator[slice]:
    """Stretches of the questions whose windows hold about CHUNK_ROWS versions together."""
    lo, hi = longest
    total = np.concatenate(([0], np.cumsum(hi - lo)))
    first = 0
    while first < len(lo):
        end = max(int(np.searchsorted(total, total[first] + CHUNK_ROWS, side="right")) - 1, first + 1)
        yield slice(first, end)
        first = end


def _visible(
    rows: Rows, until: Ints, history: History, versions: Bounds, at_us: Ints
) -> tuple[Ints, dict[int, tuple[Ints, Ints]]]:
    """The rows of the windows that were visible at each question, one question behind the other, and the bounds of each
    window among them."""
    assert rows.created is not None
    lo, hi = versions[max(versions)]
    sizes = hi - lo
    offset = np.concatenate(([0], np.cumsum(sizes)))
    question = np.repeat(np.arange(len(lo)), sizes)
    row = history.order[np.arange(offset[-1]) - offset[question] + lo[question]]
    visible = (rows.created[row] <= at_us[question]) & (until[row] > at_us[question])
    before = np.concatenate(([0], np.cumsum(visible)))
    seen = {
        length: (before[offset[:-1] + (first - lo)], before[offset[:-1] + (end - lo)])
        for length, (first, end) in versions.items()
    }
    return row[visible], seen
