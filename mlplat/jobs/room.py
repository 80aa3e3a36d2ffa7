"""What is free on the nodes of a pool, and which of them a gang fits on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlplat.jobs.demand import suits
from mlplat.jobs.job import Job, Node

_UNIT = 10_000  # Ray counts in ten-thousandths too: sums are exact
MOST = int(np.iinfo(np.int64).max)

Grid = npt.NDArray[np.int64]
"""Nodes by resources."""
Vector = tuple[int, ...]
"""Of resources: there are so few that columns would be slower."""
Placed = tuple[tuple[str, int], ...]


def plus(one: Vector, other: Vector, times: int = 1) -> Vector:
    return tuple([a + b * times for a, b in zip(one, other, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """What a bundle takes of each resource, those that it takes any of, and how many bundles may be on each node: none, or any
    number."""

    takes: Grid
    parts: tuple[tuple[int, int], ...]
    allowed: Grid
    most: list[int] = field(default_factory=list)

    def room(self, row: int, amounts: Sequence[int]) -> int:
        """How many bundles fit into these amounts on one node."""
        most = int(self.allowed[row])
        for column, takes in self.parts:
            if (fit := amounts[column] // takes) < most:
                most = fit
        return max(most, 0)


class Nodes:
    """The nodes of a pool as a grid. Shapes are looked up by what they are made of."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.ids = [node.id for node in nodes]
        self.resources = sorted({name for node in nodes for name in node.total}) or ["CPU"]  # no nodes: nothing fits
        self.total = np.array(
            [[units(node.total.get(name, 0.0)) for name in self.resources] for node in nodes], dtype=np.int64
        ).reshape(len(nodes), len(self.resources))
        self.rows = {node_id: row for row, node_id in enumerate(self.ids)}
        self._column = {name: column for column, name in enumerate(self.resources)}
        self._labels = [node.labels for node in nodes]
        self._shapes: dict[tuple[object, object], Shape | None] = {}
        self._by_kind: dict[str, Shape | None] = {}
        self._nothing = Shape(
            takes=np.zeros(len(self.resources), dtype=np.int64), parts=(), allowed=np.zeros(len(nodes), dtype=np.int64)
        )

    def shape(self, job: Job) -> Shape | None:
        """None if the pool has not all of its resources."""
        if job.kind not in self._by_kind:
            key = (job.each, job.labels)
            if key not in self._shapes:
                self._shapes[key] = self._shape(job)
            self._by_kind[job.kind] = self._shapes[key]
        return self._by_kind[job.kind]

    def taken(self, job: Job) -> Shape:
        """The shape of what a job holds: nothing, if the pool has changed under it."""
        return self.shape(job) or self._nothing

    def _shape(self, job: Job) -> Shape | None:
        if any(name not in self._column for name, _ in job.each):
            return None
        takes = np.zeros(len(self.resources), dtype=np.int64)
        for name, amount in job.each:
            takes[self._column[name]] += units(amount)
        wanted = dict(job.labels)
        allowed = [MOST if suits(labels, wanted) else 0 for labels in self._labels]
        parts = tuple((column, amount) for column, amount in enumerate(takes.tolist()) if amount)
        return Shape(takes=takes, parts=parts, allowed=np.array(allowed, dtype=np.int64))

    def most(self, shape: Shape) -> int:
        """How many bundles fit on empty nodes."""
        if not shape.most:
            shape.most.append(int(self.bundles(self.total, shape).sum()))
        return shape.most[0]

    def vector(self, amounts: Mapping[str, float], absent: int = 0) -> Vector:
        """Of resources that the pool has."""
        return tuple(units(amounts[name]) if name in amounts else absent for name in self.resources)

    def add(self, grid: Grid, shape: Shape, placed: Iterable[tuple[str, int]], sign: int) -> None:
        """Put bundles into a grid, or (-1) take them out of it. Those on nodes that are gone are nowhere."""
        for node_id, count in placed:
            if (row := self.rows.get(node_id)) is not None:
                grid[row] += sign * count * shape.takes

    def place(self, grid: Grid, shape: Shape, count: int) -> Placed | None:
        """Nodes for `count` bundles, as few as can be, and of those the fullest; None if they do not fit."""
        room = self.bundles(grid, shape).tolist()
        return None if sum(room) < count else self.spread(room, count)

    def spread(self, room: Sequence[int], count: int) -> Placed:
        """The same where it is known that they fit, from how many fit on each node."""
        placed: list[tuple[str, int]] = []
        while count not in room:
            most = max(room)
            if most > count:
                return (*placed, (self.ids[room.index(min([fit for fit in room if fit > count]))], count))
            row = room.index(most)
            placed.append((self.ids[row], most))
            room, count = [*room[:row], 0, *room[row + 1 :]], count - most
        return (*placed, (self.ids[room.index(count)], count))

    def bundles(self, grid: Grid, shape: Shape) -> Grid:
        """How many bundles fit on each node."""
        room = shape.allowed
        for column, takes in shape.parts:
            room = np.minimum(room, grid[:, column] // takes)
        return np.maximum(room, 0)


def units(amount: float) -> int:
    return round(amount * _UNIT)
