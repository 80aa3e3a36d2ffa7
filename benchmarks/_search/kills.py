"""What kill -9 costs a search: trials lost or done again, and whether another way is taken."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

import mlplat
from benchmarks._figures import Figures, Scene

OURS = """
import sys, time
from pathlib import Path
import mlplat
from mlplat import space

done = Path(sys.argv[2])

def objective(made, trial):
    time.sleep(0.05)
    value = (made["x"] - 0.3) ** 2 + made["y"] / 10 + {"a": 0.0, "b": 0.1, "c": 0.2}[made["z"]]
    with done.open("a") as file:
        file.write(f"{trial.number}\\n")
    return value

with mlplat.connect(sys.argv[1]) as platform:
    platform.search(
        {"x": space.number(0, 1), "y": space.integer(1, 9), "z": space.choice("a", "b", "c")},
        objective, name="killed", trials=int(sys.argv[3]), executor=sys.argv[4], at_once=1,
    )
"""
PLAIN = """
import sys, time
from pathlib import Path
import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

done = Path(sys.argv[2])

def objective(config):
    for step in range(3):
        time.sleep(0.05)
        tune.report({"loss": (config["x"] - 0.3) ** 2 + 1 / (step + 1)})
    with done.open("a") as file:
        file.write(f"{config['x']}\\n")

ray.init(address="local")  # it would look for the cluster that was killed before
space = {"x": optuna.distributions.FloatDistribution(0, 1)}
path = sys.argv[1] + "/plain"
if tune.Tuner.can_restore(path):
    tuner = tune.Tuner.restore(path, tune.with_resources(objective, {"cpu": 1}), resume_unfinished=True)
else:
    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space, metric="loss", mode="min"), scheduler=ASHAScheduler(metric="loss", mode="min"),
            num_samples=int(sys.argv[3]), max_concurrent_trials=1, reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="plain", storage_path=sys.argv[1], verbose=0),
    )
tuner.fit()
"""


def killed(scene: Scene) -> Mapping[str, Figures]:
    """A search whose driver is killed at random moments, half of it with processes that stay and half with Ray Tune, beside one
    that is not disturbed."""
    trials, kills = scene.size(60, 6), scene.size(20, 1)
    lost, apart, notes = 0, 0, []
    for executor in ("warm", "tune")[: scene.size(2, 1)]:
        calm = _run(scene.folder / f"calm-{executor}", trials, executor, kills=0, seed=0)
        disturbed = _run(
            scene.folder / f"killed-{executor}", trials, executor, kills=kills // 2 or 1, seed=len(executor)
        )
        done = Counter(disturbed[1])
        lost += sum(n not in done for n in range(trials)) + max(0, sum(done.values()) - trials - disturbed[2])
        apart += calm[0] != disturbed[0]
        notes.append(f"{executor}: killed {disturbed[2]} times, {sum(done.values())} evaluations of {trials} trials")
    if not scene.quick:
        notes.append(f"plain Tune, killed 5 times: {_plain(scene.folder / 'plain', trials)}")
    return {
        "killed_lost": Figures(ours=float(lost), note="; ".join(notes)),
        "killed_trajectory": Figures(ours=float(apart)),
    }


def _run(folder: Path, trials: int, executor: str, *, kills: int, seed: int) -> tuple[list[object], list[int], int]:
    """All trials as they are recorded, the numbers of those that were evaluated, and how often it was killed in the middle."""
    folder.mkdir()
    done, rng, killed = folder / "done", random.Random(seed), 0
    moments = sorted(rng.sample(range(1, trials), kills), reverse=True)
    while True:
        child = _started(OURS, folder / "home", done, trials, executor)
        while child.poll() is None and moments:
            if _count(done) >= moments[-1]:
                _wait(rng.uniform(0, 0.1))
                child.kill()
                killed += 1
                moments.pop()
                break
            _wait(0.01)
        if child.wait() == 0:
            break
    with mlplat.connect(folder / "home") as platform:
        found = [[t.number, t.state, json.dumps(t.params, sort_keys=True), t.values] for t in platform.trials("killed")]
    return found, [int(line) for line in done.read_text().split()], killed


def _plain(folder: Path, trials: int) -> str:
    """What Ray Tune's own restore makes of it."""
    folder.mkdir()
    done, rng = folder / "done", random.Random(5)
    for kill in range(6):
        child = _started(PLAIN, folder, done, trials)
        target, until = _count(done) + trials // 8, monotonic() + 120
        while child.poll() is None and monotonic() < until:
            if kill < 5 and _count(done) >= target:
                _wait(rng.uniform(0, 0.1))
                break
            _wait(0.01)
        child.kill()
        if child.wait() == 0:
            break
    return f"{_count(done)} evaluations for {trials} trials"


def _started(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _count(path: Path) -> int:
    return len(path.read_text().split()) if path.exists() else 0


def _wait(seconds: float) -> None:
    from threading import Event

    Event().wait(seconds)
