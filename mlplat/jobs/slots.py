"""What nobody holds of a pool, and how many bundles fit into it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlplat.jobs.job import Lease
from mlplat.jobs.room import Grid, Nodes, Placed, Shape


@dataclass(slots=True)
class Fit:
    """How many bundles fit on each node and in all, after so many changes."""

    room: list[int]
    total: int
    seen: int


class Slots:
    """What nobody holds now; and `later`, when what is being given back has been, what nobody holds or was promised. Only what is
    in both can be given out. What somebody waits for can be set aside.

    How many bundles of a shape fit is worked out once; then only for the nodes on which slots changed hands, and not at all where
    too few fitted and there is only less since."""

    def __init__(self, nodes: Nodes, leases: Iterable[Lease]) -> None:
        self._nodes = nodes
        self._now: list[list[int]] = nodes.total.tolist()
        self._later: list[list[int]] = nodes.total.tolist()
        for lease in leases:
            shape = nodes.taken(lease.job)
            self._put(self._now, shape, lease.placed, -1)
            if not lease.draining:
                self._put(self._later, shape, lease.placed, -1)
        self._aside: Grid | None = None
        self._wanted: list[list[int]] = []
        self._touched: list[int] = []
        self._more = 0  # what was touched before may have got more
        self._fits: dict[tuple[Shape, bool, bool], Fit] = {}

    def _put(self, grid: list[list[int]], shape: Shape, placed: Placed, sign: int) -> list[int]:
        """Those on nodes that are gone are nowhere."""
        rows = []
        for node_id, count in placed:
            if (row := self._nodes.rows.get(node_id)) is not None:
                amounts = grid[row]
                rows.append(row)
                for column, takes in shape.parts:
                    amounts[column] += sign * count * takes
        return rows

    def take(self, shape: Shape, placed: Placed) -> None:
        self._put(self._now, shape, placed, -1)
        self.promise(shape, placed)

    def promise(self, shape: Shape, placed: Placed) -> None:
        self._touched += self._put(self._later, shape, placed, -1)

    def give_back(self, shape: Shape, placed: Placed) -> None:
        self._touched += self._put(self._later, shape, placed, 1)
        self._more = len(self._touched)

    def set_aside(self, wanted: Grid) -> None:
        self._aside, self._wanted = wanted, wanted.tolist()
        self._fits.clear()

    def row(self, node_id: str) -> int | None:
        """None: the node is gone."""
        return self._nodes.rows.get(node_id)

    def amounts(self, row: int, *, later: bool, whole: bool) -> list[int]:
        """What is to be had on one node. `whole`: with what is set aside."""
        amounts = list(self._later[row]) if later else list(map(min, self._now[row], self._later[row]))
        if not whole and self._aside is not None:
            for column, wanted in enumerate(self._wanted[row]):
                amounts[column] -= wanted
        return amounts

    def grid(self, *, later: bool, whole: bool) -> Grid:
        grid: Grid = np.array(self._later, dtype=np.int64).reshape(self._nodes.total.shape)
        if not later:
            grid = np.minimum(grid, np.array(self._now, dtype=np.int64).reshape(grid.shape))
        return grid if whole or self._aside is None else grid - self._aside

    def fit(self, shape: Shape, least: int, *, later: bool, whole: bool) -> Fit | None:
        """What fits, if that are at least so many bundles."""
        key = (shape, later, whole)
        found, touched = self._fits.get(key), self._touched
        if found is None:
            room = self._nodes.bundles(self.grid(later=later, whole=whole), shape).tolist()
            found = self._fits[key] = Fit(room, sum(room), len(touched))
        elif found.seen < len(touched) and (found.total >= least or found.seen < self._more):
            for row in set(touched[found.seen :]):
                fit = shape.room(row, self.amounts(row, later=later, whole=whole))
                found.total += fit - found.room[row]
                found.room[row] = fit
            found.seen = len(touched)
        return None if found.total < least else found


class Trial:
    """How many bundles of a shape would fit later if others gave their slots back too."""

    def __init__(self, slots: Slots, shape: Shape, *, whole: bool) -> None:
        self._slots, self._shape, self._whole = slots, shape, whole
        fit = slots.fit(shape, 0, later=True, whole=whole)
        assert fit is not None
        self._room, self.total = fit.room, fit.total
        self._changed: dict[int, tuple[list[int], int]] = {}

    def add(self, shape: Shape, placed: Placed, sign: int = 1) -> None:
        """Bundles of another shape are given back, or (-1) kept after all."""
        slots = self._slots
        for node_id, count in placed:
            if (row := slots.row(node_id)) is None:
                continue
            if (known := self._changed.get(row)) is None:
                amounts, before = slots.amounts(row, later=True, whole=self._whole), self._room[row]
            else:
                amounts, before = known
            for column, takes in shape.parts:
                amounts[column] += sign * count * takes
            fit = self._shape.room(row, amounts)
            self._changed[row] = amounts, fit
            self.total += fit - before
