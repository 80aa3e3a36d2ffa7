"""Which trials are best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from mlplat.metadata.port import Goal
from mlplat.train.search.trial import Trial


def ranked(trials: Iterable[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """Those that are done, best first. Of several goals first those that no other beats in all, then those that only they beat,
    and so on; alike ones by the first goal. The same values: who came first."""
    done = [trial for trial in trials if trial.state == "done"]
    losses = {trial.number: _losses(trial, goals) for trial in done}
    left, found = sorted(done, key=lambda t: (losses[t.number], t.number)), []
    if len(goals) == 1:
        return left
    while left:
        front = [one for one in left if not any(_beats(losses[other.number], losses[one.number]) for other in left)]
        found += front
        left = [one for one in left if one not in front]
    return found


def front(trials: Iterable[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """Those that no other beats in all goals (the Pareto front), by the first goal."""
    found = ranked(trials, goals)
    losses = {trial.number: _losses(trial, goals) for trial in found}
    return [one for one in found if not any(_beats(losses[other.number], losses[one.number]) for other in found)]


def spelled(trial: Trial) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())


def table(trials: Iterable[Trial], goals: Sequence[Goal]) -> pl.DataFrame:
    """A row for each trial: those that are done in their order, then the others. `steps` is how many it told."""
    trials = list(trials)
    best = ranked(trials, goals)
    others = [trial for trial in trials if trial.state != "done"]
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            **{goal.metric: value for goal, value in zip(goals, trial.values, strict=False)},
            **trial.metrics,
            **{f"params.{name}": _cell(value) for name, value in trial.params.items()},
            "steps": len(trial.steps),
            "attempts": trial.attempts,
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in (*best, *others)
    ]
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


def summary(searches: Mapping[str, tuple[Sequence[Goal], Sequence[Trial]]]) -> pl.DataFrame:
    rows = []
    for name, (goals, trials) in searches.items():
        best = ranked(trials, goals)[:1]
        counts = {
            state: sum(trial.state == state for trial in trials) for state in ("done", "running", "stopped", "failed")
        }
        found = best[0].values[0] if best else None
        rows.append(
            {
                "search": name,
                **counts,
                "goal": goals[0].metric,
                "best": found,
                "trial": best[0].number if best else None,
            }
        )
    kinds = {"search": pl.String, **dict.fromkeys(("done", "running", "stopped", "failed"), pl.Int64)}
    return pl.DataFrame(rows, schema={**kinds, "goal": pl.String, "best": pl.Float64, "trial": pl.Int64})


def _cell(value: object) -> object:
    return value if isinstance(value, int | float | str) else str(value)


def _losses(trial: Trial, goals: Sequence[Goal]) -> tuple[float, ...]:
    return tuple(v if goal.direction == "min" else -v for goal, v in zip(goals, trial.values, strict=True))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
