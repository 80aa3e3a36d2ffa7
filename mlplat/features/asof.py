"""Point-in-time positions: where in an entity's history a moment falls. Everything offline is built on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Events in order of (entity, time, id), and where each query's entity lies among them.

    `order` sorts the table's rows into that order; `codes` and `times` are sorted. `queries` are the codes of the
    queries; an entity without events, or a null in a key, has code -1.
    """

    order: Ints
    codes: Ints
    times: Ints
    queries: Ints

    def position(self, at_us: Ints, *, inclusive: bool) -> Ints:
        """For each query, how many events (from the start of the order) come before `at_us` in its entity and all
        entities before it; with `inclusive`, those at `at_us` too. For entities without events, 0."""
        event, query = _composite(self.codes, self.times, np.maximum(self.queries, 0), at_us)
        found = np.searchsorted(event, query, side="right" if inclusive else "left")
        return np.where(self.queries >= 0, found, 0)

    def start(self) -> Ints:
        """For each query, the position of its entity's first event."""
        return np.where(self.queries >= 0, np.searchsorted(self.codes, np.maximum(self.queries, 0), side="left"), 0)


def history(events: pl.DataFrame, queries: pl.DataFrame, keys: tuple[str, ...], time: str) -> History:
    """`events` has the keys, `time` and `_id`; `queries` has the keys."""
    names = [f"_key{i}" for i in range(len(keys))]
    left = events.select(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True))
    right = queries.select(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True))
    entities = left.unique(maintain_order=True).drop_nulls().with_row_index("_code")
    codes = _codes(left, entities, names)
    times = _us(events[time])
    order = _order(codes, times, events["_id"].to_numpy())
    return History(order=order, codes=codes[order], times=times[order], queries=_codes(right, entities, names))


def _order(codes: Ints, times: Ints, ids: Ints) -> Ints:
    """Positions in order of (code, time, id). One number for code and time sorts faster than three columns do; where two events
    share it, or it does not fit, the columns decide."""
    first = int(times.min()) if len(times) else 0
    span = int(times.max()) - first + 1 if len(times) else 1
    if len(times) and (int(codes.max()) + 2) * span < 2**62:
        pair = codes * span + (times - first)
        order = np.argsort(pair)
        ordered = pair[order]
        if not (ordered[1:] == ordered[:-1]).any():
            return order
    return np.lexsort((ids, times, codes)).astype(np.int64)


def _codes(frame: pl.DataFrame, entities: pl.DataFrame, names: list[str]) -> Ints:
    joined = frame.join(entities, on=names, how="left", maintain_order="left")
    return joined["_code"].cast(pl.Int64).fill_null(-1).to_numpy()


def _us(times: pl.Series) -> Ints:
    return times.cast(pl.Datetime("us", "UTC")).to_physical().to_numpy()


def _composite(codes: Ints, times: Ints, query_codes: Ints, at_us: Ints) -> tuple[Ints, Ints]:
    """One sortable int64 per (entity, time): exact, by ranking the times where the plain product would overflow."""
    if not len(times) or not len(at_us):
        return codes, query_codes
    first = min(int(times.min()), int(at_us.min()))
    span = max(int(times.max()), int(at_us.max())) - first + 1
    if (int(codes.max()) + 2) * span < 2**62:
        return codes * span + (times - first), query_codes * span + (at_us - first)
    ranks = np.unique(np.concatenate((times, at_us)))
    size = np.int64(len(ranks))
    return codes * size + np.searchsorted(ranks, times), query_codes * size + np.searchsorted(ranks, at_us)
