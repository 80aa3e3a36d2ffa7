"""Which of those whose slots a job may take back have to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlplat.jobs.job import Lease
from mlplat.jobs.rights import Rights
from mlplat.jobs.room import Nodes, Shape
from mlplat.jobs.slots import Trial

Victims = list[tuple[Lease, str]]
"""Each with the right to it."""


def search(
    rights: Rights, worth: Sequence[Lease], nodes: Nodes, shape: Shape, least: int, trial: Callable[[], Trial]
) -> Victims | None:
    """Of the lowest priorities that are enough, one that is enough alone or else the youngest, and none that is not needed. None
    if there is no right to enough of them. `trial`: how many would fit if others gave their slots back too."""
    chosen: Victims = []
    later: Trial | None = None
    for lease in worth:
        reason = rights.over(lease)
        if reason is None or not _helps(nodes.taken(lease.job), shape):
            continue
        chosen.append((lease, reason))
        later = later or trial()
        later.add(nodes.taken(lease.job), lease.placed)
        if later.total >= least:
            break
        rights.given_up(lease)
    else:
        return None
    if len(chosen) == 1:
        return chosen
    rights.forget()
    highest = max(lease.job.priority for lease, _ in chosen)
    return _alone(rights, worth, nodes, least, highest, trial) or needed(nodes, least, chosen, later)


def _alone(
    rights: Rights, worth: Sequence[Lease], nodes: Nodes, least: int, highest: int, trial: Callable[[], Trial]
) -> Victims | None:
    for lease in worth:
        if lease.job.priority <= highest:
            later = trial()
            later.add(nodes.taken(lease.job), lease.placed)
            if later.total >= least and (reason := rights.over(lease)) is not None:
                return [(lease, reason)]
    return None


def _helps(gives: Shape, shape: Shape) -> bool:
    """Whether it holds any of what is asked for."""
    return gives is shape or any(gives.takes[column] for column, _ in shape.parts)


def needed(nodes: Nodes, least: int, chosen: Victims, later: Trial) -> Victims:
    """Those without which the others, which are given back `later`, are not enough."""
    kept = list(chosen)
    for one in reversed(chosen):
        shape, placed = nodes.taken(one[0].job), one[0].placed
        later.add(shape, placed, -1)
        if later.total >= least:
            kept.remove(one)
        else:
            later.add(shape, placed)
    return kept
