"""What became of work on a cluster that was simulated, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mlplat.clock import US_PER_S
from mlplat.cluster.world import Outcome
from mlplat.jobs.picture import save

Step = tuple[int, int, float]
"""From when, until when (microseconds), how much."""
_LABELS = ("work on own machines", "work on bought machines", "bought, and booting or idle")
_COLOURS = ("#4878a8", "#e49444", "#f3d5b5")
_HEIGHT, _WIDTH, _HOUR_US = 2.4, 10.0, 3_600 * US_PER_S


def draw(outcomes: Mapping[str, Outcome], path: str | Path) -> Path:
    """A strip for each rule, over the hours, one on the other: GPUs that work holds on own machines, those that it holds on
    bought ones, and those of bought machines that boot or are idle. The kind of file is that of its name: .png, .svg or .pdf."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(outcomes)), layout="constrained")
    strips = figure.subplots(len(outcomes), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (rule, outcome) in zip(strips, outcomes.items(), strict=True):
        bought = ((b.began_us, b.ended_us or outcome.until_us, b.gpus) for b in outcome.bills)
        lines = (_held(outcome, bought=False), _held(outcome, bought=True), bought)
        hours, (own, there, all_bought) = _together([_steps(line) for line in lines])
        stack = (own, there, np.maximum(0.0, all_bought - there))
        axes.stackplot(hours, stack, step="post", labels=_LABELS, colors=_COLOURS, linewidth=0)
        axes.set(title=f"{rule}: cost {outcome.cost:,.0f}", ylabel="GPUs")
        axes.margins(x=0)
    strips[-1].set(xlabel="hours")
    figure.legend(*strips[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    return save(figure, path)


def _held(outcome: Outcome, *, bought: bool) -> Iterable[Step]:
    for one in outcome.ran:
        if one.bought == bought:
            yield one.began_us, one.ended_us, dict(one.job.each).get("GPU", 0.0) * one.job.count


def _together(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """The same at all moments in which any of them changes."""
    times = np.unique(np.concatenate([at for at, _ in lines]))
    return times, [amounts[np.searchsorted(at, times, side="right") - 1] for at, amounts in lines]


def _steps(held: Iterable[Step]) -> tuple[np.ndarray, np.ndarray]:
    """When it changed, in hours, and how much there was from then on."""
    rows = list(held)
    at = np.array([0, *(us for began, ended, _ in rows for us in (began, ended))], dtype=float)
    by = np.array([0.0, *(change for _, _, amount in rows for change in (amount, -amount))])
    times, where = np.unique(at, return_inverse=True)
    changes = np.zeros(len(times))
    np.add.at(changes, where, by)
    return times / _HOUR_US, np.cumsum(changes)
