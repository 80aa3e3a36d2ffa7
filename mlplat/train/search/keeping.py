"""What stays of a search beside its record: the search in the metadata store, and its best trainings as registered versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlplat.disk import write_atomically
from mlplat.metadata.port import Goal, Metadata
from mlplat.model.artifact import load, place
from mlplat.model.space import Domain, fill
from mlplat.train.recording import finite
from mlplat.train.run import Run
from mlplat.train.search.ranking import ranked, table
from mlplat.train.search.search import PLACE
from mlplat.train.search.training import Training, read_learned
from mlplat.train.search.trial import Trial
from mlplat.train.trainer import TrainedModel, adopt

_KEPT = "kept.json"
SEARCH_TAG, TRIAL_TAG = "search", "search_trial"
"""Of runs: the search that a model comes from, and its trial there."""


def recorded(
    name: str,
    trials: Sequence[Trial],
    goals: Sequence[Goal],
    about: Mapping[str, Any],
    folder: Path,
    tags: Mapping[str, str],
    *,
    under: str,
    metadata: Metadata,
) -> str:
    """The search as a run of the experiment `under`, with a row for each trial; written once. Its id."""
    known = _read(folder)
    key = f"run of {len(trials)}"
    if key in known:
        return str(known[key])
    best = ranked(trials, goals)[:1]
    run_id = metadata.start_run(
        under,
        params={**{key: value for key, value in about.items() if not key.startswith(PLACE)}, "trials": len(trials)},
        tags={**tags, SEARCH_TAG: name, **({TRIAL_TAG: str(best[0].number)} if best else {})},
    )
    space = [f"{key.removeprefix(PLACE)}: {value}" for key, value in about.items() if key.startswith(PLACE)]
    metadata.put_texts(run_id, {"trials": table(trials, goals).write_csv(), "space": "\n".join(space)})
    for trial in best:
        values = {goal.metric: v for goal, v in zip(goals, trial.values, strict=True)}
        metadata.log_metrics(run_id, finite({f"best_{key}": v for key, v in {**trial.metrics, **values}.items()}))
    metadata.end_run(run_id, status="FINISHED")
    _write(folder, {**known, key: run_id})
    return run_id


def models(
    name: str,
    trials: Sequence[Trial],
    folder: Path,
    training: Training,
    space: Any,
    run: Run,
    tags: Mapping[str, str],
    *,
    parent: str,
) -> tuple[TrainedModel, ...]:
    """These trials as versions, in their order; each is registered once."""
    found = []
    for trial in trials:
        known = _read(folder)
        key = f"version of {trial.number}"
        try:
            learned = read_learned(folder / str(trial.number))
        except FileNotFoundError:  # an earlier call kept fewer
            continue
        if key in known:
            version = run.metadata.version(run.data.name, int(known[key]))
            model = load(place(run.home, version.name, version.digest), digest=version.digest, trusted=True).model
            best = next(one for one in reversed(learned.history) if one.best)
            found.append(
                TrainedModel(
                    model=model,
                    version=version,
                    metrics=dict(best.held_out),
                    history=learned.history,
                    seconds=trial.seconds,
                )
            )
            continue
        science, settings = training.chosen(fill(space, partial(_chosen, trial)))
        purpose = {**tags, SEARCH_TAG: name, TRIAL_TAG: str(trial.number)}
        one = adopt(replace(run, science=science, settings=settings, learned=learned, purpose=purpose, parent=parent))
        _write(folder, {**known, key: one.version.version})
        found.append(replace(one, seconds=trial.seconds))
    return tuple(found)


def _chosen(trial: Trial, place: str, domain: Domain) -> Any:
    return trial.params[place]


def forget(folder: Path, trials: Sequence[Trial], kept: Sequence[Trial]) -> None:
    """The folders of trials that ended, but of these."""
    for number in {trial.number for trial in trials if trial.ended} - {trial.number for trial in kept}:
        shutil.rmtree(folder / str(number), ignore_errors=True)


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _KEPT).read_bytes())
    except FileNotFoundError:
        return {}
    return found


def _write(folder: Path, value: Mapping[str, Any]) -> None:
    write_atomically(folder / _KEPT, json.dumps(dict(value)).encode())
