"""What bursting costs, with Ray's own autoscaler, our provider and our queue under a simulated clock, beside what it could cost
at best and what other rules make of the same work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.optimize import LinearConstraint, linprog, milp
from scipy.sparse import csr_matrix

from benchmarks._burst.traces import traces
from benchmarks._figures import Figures, Scene
from mlplat.cluster.simulation import simulate
from mlplat.cluster.world import Arrival, Outcome, Settings
from mlplat.testing import lab

OWN_GPUS = 8
SETTINGS = Settings(boot_s=120.0, checkpoint_s=5.0, restart_s=60.0)
OURS: Mapping[str, Any] = {"wait_s": 3_600}


def config(burst: Mapping[str, Any], ledger: str = "", **budget: float) -> dict[str, Any]:
    """Two own machines of four GPUs; bought ones of one GPU each, from spot in two zones and then on demand, given back after
    half a minute."""
    given = lab.config(ledger, **budget)
    given["max_workers"] = 202
    given["provider"]["burst"] = dict(burst)
    types = given["available_node_types"]
    types["onprem.gpu"]["resources"] = {"CPU": 32, "GPU": 4}
    types["cloud.gpu"] |= {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 200, "idle_timeout_s": 30}
    return given


def run(
    arrivals: Sequence[Arrival], burst: Mapping[str, Any], folder: Path, budget_us: Callable[..., int] | None = None
) -> Outcome:
    """`budget_us` is in place of how long ours has a job wait."""
    with ExitStack() as stack:
        place = stack.enter_context(TemporaryDirectory(dir=folder))
        if budget_us is not None:
            for where in ("mlplat.jobs.burst.budget_us", "mlplat.cluster.simulation.budget_us"):
                stack.enter_context(patch(where, budget_us))
        ledger = f"{place}/machines.db"
        return simulate(config(burst, ledger), arrivals, ledger=ledger, settings=SETTINGS)


def costs(scene: Scene) -> dict[str, Figures]:
    """All rows that come from the five loads. They are simulated once: of `free_at_launch` raylets have a say too."""
    if scene.quick not in _COSTS:
        _COSTS[scene.quick] = _costs(scene)
    return _COSTS[scene.quick]


_COSTS: dict[bool, dict[str, Figures]] = {}


def _costs(scene: Scene) -> dict[str, Figures]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("back", "stay", "at_once", "starburst")}
    free, misplaced, slower, notes = 0.0, 0, [], []
    chosen = list(traces(scene.size(30, 3) / 10).items())[: scene.size(5, 1)]
    for name, arrivals in chosen:
        scene.say(f"{name}: {len(arrivals)} jobs")
        whole = [replace(one, job=replace(one.job, preemptible=False)) for one in arrivals]
        ours = run(arrivals, OURS, scene.folder)
        stay = run(whole, OURS, scene.folder)
        at_once = run(whole, {"wait_s": 0}, scene.folder)
        starburst = run(whole, OURS, scene.folder, _compute_wait(arrivals))
        found["back"].append((ours.gpu_hours, least_if_work_moves(arrivals, ours)))
        found["stay"].append((stay.gpu_hours, least_if_work_stays(arrivals, stay)))
        found["at_once"].append((ours.cost, at_once.cost))
        found["starburst"].append((ours.cost, starburst.cost))
        free = max([free, *(one.free_gpus for run in (ours, stay) for one in run.bought)])
        misplaced += ours.misplaced + stay.misplaced
        slower.append(completion_s(arrivals, ours) / completion_s(arrivals, starburst))
        least, least_stay = found["back"][-1][1], found["stay"][-1][1]
        to_end = [completion_s(arrivals, one) / 3_600 for one in (ours, at_once, starburst)]
        notes.append(
            f"{name}: GPU-hours {ours.gpu_hours:.0f} (at least {least:.0f}), without moving {stay.gpu_hours:.0f} (at least "
            f"{least_stay:.0f}), at once {at_once.gpu_hours:.0f}, Starburst's rule {starburst.gpu_hours:.0f}; mean hours "
            f"to the end {to_end[0]:.2f}, {to_end[1]:.2f} and {to_end[2]:.2f}; {ours.moved} moves"
        )

    def row(name: str, wrong: str = "", note: str = "") -> Figures:
        mine, others = zip(*found[name], strict=True)
        return Figures(ours=float(np.mean(mine)), reference=float(np.mean(others)), wrong=wrong, note=note)

    late = float(np.mean(slower))
    return {
        "free_at_launch": Figures(ours=free),
        "misplaced": Figures(ours=float(misplaced)),
        "cost_bound_back": row("back", note="\n".join(notes)),
        "cost_bound": row("stay"),
        "cost_at_once": row("at_once"),
        "cost_starburst": row(
            "starburst",
            wrong="" if late <= 1.1 else f"the mean time to the end is {late:.2f} times that of Starburst's rule",
        ),
    }


def completion_s(arrivals: Sequence[Arrival], outcome: Outcome) -> float:
    """The mean, from submission to end."""
    return float(np.mean([(outcome.ended_us[one.job.id] - one.job.submitted_us) / 1e6 for one in arrivals]))


def _compute_wait(arrivals: Sequence[Arrival]) -> Callable[..., int]:
    """Starburst's rule: a job waits in proportion to its GPU-hours, which it takes to be known; an hour on average, as in its
    simulations (Luo et al., ATC 2024)."""
    hours = {one.job.id: one.job.least * one.work_s / 3_600 for one in arrivals}
    mean = sum(hours.values()) / len(hours)
    return lambda cloud, job, nodes: round(hours[job.id] / mean * 3_600 * 1e6)


def least_if_work_moves(arrivals: Sequence[Arrival], outcome: Outcome) -> float:
    """GPU-hours that must be bought by anybody who ends no job later than it ended, knows all of them, and may stop and move
    them at any moment at no cost: a linear programme over how much each job works between any two moments at which one comes or
    ends."""
    came = np.array([one.job.submitted_us / 1e6 for one in arrivals])
    ended = np.array([outcome.ended_us[one.job.id] / 1e6 for one in arrivals])
    work = np.array([one.work_s for one in arrivals])
    gpus = np.array([one.job.least for one in arrivals])
    times = np.unique(np.concatenate([came, ended]))
    lengths = np.diff(times)
    job, piece = np.nonzero((times[None, :-1] >= came[:, None]) & (times[None, 1:] <= ended[:, None]))
    count, pieces = len(job), len(lengths)
    each = np.arange(count)
    bought = count + np.arange(pieces)
    used = csr_matrix(
        (
            np.concatenate([gpus[job], -np.ones(pieces)]),
            (np.concatenate([piece, np.arange(pieces)]), np.concatenate([each, bought])),
        )
    )
    done = csr_matrix((np.ones(count), (job, each)), shape=(len(arrivals), count + pieces))
    found = linprog(
        np.concatenate([np.zeros(count), np.ones(pieces)]),
        A_ub=used,
        b_ub=OWN_GPUS * lengths,
        A_eq=done,
        b_eq=work * (1 - 1e-6),  # moments are whole microseconds
        bounds=np.stack([np.zeros(count + pieces), np.concatenate([lengths[piece], np.full(pieces, np.inf)])], axis=1),
    )
    assert found.status == 0, found.message
    return float(found.fun / 3_600)


def least_if_work_stays(arrivals: Sequence[Arrival], outcome: Outcome) -> float:
    """The same where each job is on own or on bought machines from its beginning to its end: the best choice, by one who knows
    all of them, of those that have the own machines (a mixed-integer programme; its bound, so nobody has less)."""
    begins, ends, gpus = _spans(arrivals, outcome)
    hours = gpus * (ends - begins) / 3_600
    times = np.unique(begins)
    runs = csr_matrix(((begins[None, :] <= times[:, None]) & (ends[None, :] > times[:, None])) * gpus[None, :])
    found = milp(
        -hours,
        constraints=LinearConstraint(runs, ub=np.full(len(times), OWN_GPUS)),
        bounds=(0, 1),
        integrality=np.ones(len(hours)),
        options={"time_limit": 20},
    )
    return float(hours.sum() + found.mip_dual_bound)


def _spans(arrivals: Sequence[Arrival], outcome: Outcome) -> tuple[Any, Any, Any]:
    begins = np.array([outcome.began_us[one.job.id] / 1e6 for one in arrivals])
    return begins, begins + np.array([one.work_s for one in arrivals]), np.array([one.job.least for one in arrivals])
