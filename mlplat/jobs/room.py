"""What is free on the nodes of a pool, and which of them a gang fits on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlplat.jobs.job import Job, Node

_UNIT = 10_000  # Ray counts in ten-thousandths too: sums are exact

Grid = npt.NDArray[np.int64]
"""Nodes by resources."""
Placed = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a bundle takes of each resource, and the nodes it may be on."""

    takes: Grid
    columns: Grid
    allowed: npt.NDArray[np.bool_]
    most: list[int] = field(default_factory=list)


class Nodes:
    """The nodes of a pool as a grid. Shapes are looked up by what they are made of."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.ids = [node.id for node in nodes]
        self.resources = sorted({name for node in nodes for name in node.total}) or ["CPU"]  # no nodes: nothing fits
        self.total = np.array(
            [[units(node.total.get(name, 0.0)) for name in self.resources] for node in nodes], dtype=np.int64
        ).reshape(len(nodes), len(self.resources))
        self._row = {node_id: row for row, node_id in enumerate(self.ids)}
        self._column = {name: column for column, name in enumerate(self.resources)}
        self._labels = [node.labels for node in nodes]
        self._shapes: dict[tuple[object, object], Shape | None] = {}

    def shape(self, job: Job) -> Shape | None:
        """None if the pool has not all of its resources."""
        key = (job.each, job.labels)
        if key not in self._shapes:
            self._shapes[key] = self._shape(job)
        return self._shapes[key]

    def _shape(self, job: Job) -> Shape | None:
        if any(name not in self._column for name, _ in job.each):
            return None
        takes = np.zeros(len(self.resources), dtype=np.int64)
        for name, amount in job.each:
            takes[self._column[name]] += units(amount)
        wanted = dict(job.labels).items()
        allowed = np.array([wanted <= dict(labels).items() for labels in self._labels], dtype=bool)
        return Shape(takes=takes, columns=np.flatnonzero(takes), allowed=allowed)

    def most(self, shape: Shape) -> int:
        """How many bundles fit on empty nodes."""
        if not shape.most:
            shape.most.append(int(self.bundles(self.total, shape).sum()))
        return shape.most[0]

    def vector(self, amounts: Mapping[str, float], absent: int = 0) -> Grid:
        """Of resources that the pool has."""
        given = [units(amounts[name]) if name in amounts else absent for name in self.resources]
        return np.array(given, dtype=np.int64)

    def add(self, grid: Grid, shape: Shape, placed: Iterable[tuple[str, int]], sign: int) -> None:
        """Put bundles into a grid, or (-1) take them out of it. Those on nodes that are gone are nowhere."""
        for node_id, count in placed:
            if (row := self._row.get(node_id)) is not None:
                grid[row] += sign * count * shape.takes

    def place(self, grid: Grid, shape: Shape, count: int) -> Placed | None:
        """Nodes for `count` bundles, as few as can be, and of those the fullest; None if they do not fit."""
        room = self.bundles(grid, shape)
        if int(room.sum()) < count:
            return None
        placed = []
        while count:
            enough = room >= count
            row = int(np.where(enough, room, np.iinfo(np.int64).max).argmin() if enough.any() else room.argmax())
            taken = min(count, int(room[row]))
            placed.append((self.ids[row], taken))
            room[row], count = 0, count - taken
        return tuple(placed)

    def bundles(self, grid: Grid, shape: Shape) -> Grid:
        """How many bundles fit on each node."""
        room = (np.maximum(grid[:, shape.columns], 0) // shape.takes[shape.columns]).min(axis=1)
        return np.where(shape.allowed, room, 0)


def units(amount: float) -> int:
    return round(amount * _UNIT)
