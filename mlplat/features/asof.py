"""Point-in-time positions: where in an entity's history a moment falls. Everything offline is built on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NEVER_US = np.int64(2**62)
MANY = 100_000
# With times within 70 years, entity and time fit in one number.
NEAR = 2**20 * 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a view as numbers, in the order of the table. `entities` is a row's entity, -1 where a key is null;
    `created` is when it became known, None where that is its event time; `queries` is the entity that each query asks
    about, -1 where it has no rows. All times are microseconds UTC."""

    entities: Ints
    times: Ints
    created: Ints | None
    ids: Ints
    queries: Ints

    @property
    def known(self) -> Ints:
        """When each row became known."""
        return self.times if self.created is None else self.created


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Rows in order of (entity, moment, ...): `order` sorts the table's rows into it; `entities` and `moments` are sorted."""

    order: Ints
    entities: Ints
    moments: Ints

    def position(self, queries: Ints, at_us: Ints, *, inclusive: bool) -> Ints:
        """For each query, how many rows (from the start of the order) come before `at_us` in its entity and all entities
        before it; with `inclusive`, those at `at_us` too. For entities without rows, 0 or what is before them."""
        row, query = _composite(self.entities, self.moments, np.maximum(queries, 0), at_us)
        found = _search(row, query, side="right" if inclusive else "left")
        return np.where(queries >= 0, found, 0)


def _search(ordered: Ints, wanted: Ints, *, side: Literal["left", "right"]) -> Ints:
    """`searchsorted`; many are looked up in their order, so that each finds in the cache what the one before it read."""
    if len(wanted) < MANY:
        return np.searchsorted(ordered, wanted, side=side)
    order = pl.Series(wanted).arg_sort().to_numpy()
    found = np.empty(len(wanted), dtype=np.int64)
    found[order] = np.searchsorted(ordered, wanted[order], side=side)
    return found


def rows_of(rows: pl.DataFrame, queries: pl.DataFrame, keys: tuple[str, ...], time: str, created: str | None) -> Rows:
    """`rows` has the keys, `time`, `_id` and `created` if it is given; `queries` has the keys."""
    entities, asked = _numbers(rows, queries, keys) or _codes(rows, queries, keys)
    return Rows(
        entities=entities,
        times=_us(rows[time]),
        created=None if created is None else _us(rows[created]),
        ids=rows["_id"].to_numpy(),
        queries=asked,
    )


def _numbers(rows: pl.DataFrame, queries: pl.DataFrame, keys: tuple[str, ...]) -> tuple[Ints, Ints] | None:
    """The values of one integer key, if they lie so near one another that they can stand for themselves."""
    if len(keys) > 1 or rows.schema[keys[0]] != pl.Int64 or rows.is_empty():
        return None
    column, asked = rows[keys[0]], queries[keys[0]]
    first, last = column.min(), column.max()
    if not isinstance(first, int) or not isinstance(last, int) or last - first >= NEAR:
        return None
    known = asked.is_between(first, last)
    return (
        (column - first).fill_null(-1).to_numpy(),
        (asked.clip(first, last) - first).set(~known.fill_null(value=False), -1).to_numpy(),
    )


def _codes(rows: pl.DataFrame, queries: pl.DataFrame, keys: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Entities numbered as they come."""
    names = [f"_key{i}" for i in range(len(keys))]
    left = rows.select(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True))
    right = queries.select(pl.col(k).alias(n) for k, n in zip(keys, names, strict=True))
    entities = left.unique().drop_nulls().with_row_index("_code")

    def coded(frame: pl.DataFrame) -> Ints:
        joined = frame.join(entities, on=names, how="left", maintain_order="left")
        return joined["_code"].cast(pl.Int64).fill_null(-1).to_numpy()

    return coded(left), coded(right)


def by_time(rows: Rows, keep: Ints | None = None) -> History:
    """The rows (or those at the positions `keep`) in order of (entity, time, created, id)."""
    kept = np.arange(len(rows.times)) if keep is None else keep
    ties = [rows.ids] if rows.created is None else [rows.created, rows.ids]
    order = kept[_order(rows.entities[kept], rows.times[kept], [tie[kept] for tie in ties])]
    return History(order=order, entities=rows.entities[order], moments=rows.times[order])


def newest_first_known(rows: Rows) -> History:
    """The rows that are the newest at some moment, by the moment from which they are.

    A row is visible from the later of its event time and `created`, so in that order the visible rows are a prefix, and a
    row that is older by (time, created, id) than one before it never is the newest: it is left out.
    """
    if rows.created is None or (rows.created <= rows.times).all():
        return by_time(rows)
    visible = np.maximum(rows.times, rows.created)
    order = _order(rows.entities, visible, [rows.times, rows.created, rows.ids])
    # Among rows of one time, this order is that of (created, id) already: only an older time can never win.
    entities, moments = rows.entities[order], visible[order]
    times, _ = _composite(entities, rows.times[order], entities[:1], rows.times[:1])
    wins = times >= np.maximum.accumulate(times)
    return History(order=order[wins], entities=entities[wins], moments=moments[wins])


def superseded(rows: Rows) -> Ints:
    """For each row, when a later version of its event (same entity, time and id) became known; NEVER_US if none did."""
    assert rows.created is not None
    order = np.lexsort((rows.created, rows.ids, rows.times, rows.entities))
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in (rows.entities, rows.times, rows.ids):
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    until = np.full(len(order), NEVER_US)
    until[order[:-1][same]] = rows.created[order[1:][same]]
    return until


def _order(entities: Ints, moments: Ints, ties: list[Ints]) -> Ints:
    """Positions in order of (entity, moment, ties...). One number for entity and moment sorts faster than columns do;
    where two rows share it, or it does not fit, the columns decide."""
    first = int(moments.min()) if len(moments) else 0
    span = int(moments.max()) - first + 1 if len(moments) else 1
    if len(moments) and (int(entities.max()) + 2) * span < 2**62:
        pair = entities * span + (moments - first)
        order = pl.Series(pair).arg_sort().to_numpy().astype(np.int64)
        ordered = pair[order]
        shared = ordered[1:] == ordered[:-1]
        if not shared.any():
            return order
        return _with_ties(order, shared, pair, ties)
    return np.lexsort((*reversed(ties), moments, entities)).astype(np.int64)


def _with_ties(order: Ints, shared: Mask, pair: Ints, ties: list[Ints]) -> Ints:
    """Sort again only the positions that share their pair with a neighbour."""
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] |= shared
    tied[:-1] |= shared
    among = order[tied]
    order[tied] = among[np.lexsort((*(tie[among] for tie in reversed(ties)), pair[among]))]
    return order


def _us(times: pl.Series) -> Ints:
    return times.cast(pl.Datetime("us", "UTC")).to_physical().to_numpy()


def _composite(entities: Ints, moments: Ints, query_entities: Ints, at_us: Ints) -> tuple[Ints, Ints]:
    """One sortable int64 per (entity, moment): exact, by ranking the moments where the plain product would overflow."""
    if not len(moments) or not len(at_us):
        return entities, query_entities
    first = min(int(moments.min()), int(at_us.min()))
    span = max(int(moments.max()), int(at_us.max())) - first + 1
    if (int(entities.max()) + 2) * span < 2**62:
        return entities * span + (moments - first), query_entities * span + (at_us - first)
    ranks = np.unique(np.concatenate((moments, at_us)))
    size = np.int64(len(ranks))
    return entities * size + np.searchsorted(ranks, moments), query_entities * size + np.searchsorted(ranks, at_us)
