"""Five hundred trials beside an endpoint and a notebook, on one shared cluster.

A shop's endpoint answers while ann tries five hundred networks on the same machine, and ben wants a core for his notebook in the
middle of that. The trials give ben his core, and of all cores they get only what nobody else wants: the endpoint is asked all
the while, and its slowest answers are compared with those that it gave alone.
`python -m examples.journeys.k14_many_trials_beside_an_endpoint [--home DIR] [--trials 500]`
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import polars as pl

import mlplat
from examples.journeys.k07_tune_a_deployed_model import visits
from mlplat import space
from mlplat.model import mlp
from mlplat.serve.endpoint import Endpoint
from mlplat.train import TrainSettings

SETTINGS = TrainSettings(epochs=6, learning_rate=2e-3, batch_size=128, holdout_s=24 * 3600)
NETWORKS = {
    "network": space.made(mlp, hidden=space.repeat(space.integer(4, 64, log=True), space.integer(1, 3))),
    "learning_rate": space.number(1e-4, 1e-1, log=True),
}
PAUSE_S = 0.01
"""Between an answer and the next question."""


def main(home: Path, trials: int) -> None:
    with mlplat.connect(home, tenant="shop") as platform:
        data = platform.features.training_set(
            "buys", visits(), [], label="buys", time="at", request=["pages", "minutes"]
        )
        platform.promote(platform.train(mlp((16,)), data, settings=SETTINGS))
        endpoint = platform.serve("buys")
        platform.session.share()
        asked(endpoint, lambda count: count == 300)
        alone = asked(endpoint, lambda count: count == 4 * trials)

        with process("ann", home, trials) as search, process("ben", home, trials) as notebook:
            while search.poll() is None and not begun(platform):
                sleep(0.1)
            beside = asked(endpoint, lambda count: search.poll() is not None)
        if search.returncode or notebook.returncode:
            sys.exit("ann's search or ben's notebook ended with an error")

        for where, times in (("alone", alone), ("beside ann's trials and ben's notebook", beside)):
            print(f"{where}: {len(times):,} answers, p50 {times.median():.2f} ms, p99 {times.quantile(0.99):.2f} ms")
        print(f"p99 beside / alone: {beside.quantile(0.99) / alone.quantile(0.99):.2f}")
        found = platform.trials("buys")
        print(f"{sum(trial.state == 'done' for trial in found)} of {len(found)} trials are recorded as done")
        platform.undeploy("buys")


def asked(endpoint: Endpoint, over: Callable[[int], bool]) -> pl.Series:
    """Milliseconds of each answer."""
    times: list[float] = []
    while not over(len(times)):
        began = perf_counter()
        endpoint.predict([{"pages": len(times) % 20, "minutes": len(times) / 100}])
        times.append(1e3 * (perf_counter() - began))
        sleep(PAUSE_S)
    return pl.Series(times)


def begun(platform: mlplat.Platform) -> bool:
    return "buys" in platform.searches()["search"] and any(trial.ended for trial in platform.trials("buys"))


@contextmanager
def process(who: str, home: Path, trials: int) -> Iterator[subprocess.Popen[bytes]]:
    """A script of somebody else, on the same cluster, until it ends."""
    command = [sys.executable, "-m", "examples.journeys.k14_many_trials_beside_an_endpoint", "--as", who]
    with subprocess.Popen([*command, "--home", str(home), "--trials", str(trials)]) as child:
        try:
            yield child
        except BaseException:
            child.terminate()
            raise


def ann(platform: mlplat.Platform, trials: int) -> None:
    data = next(known for known in platform.features.training_sets() if known.name == "buys")
    platform.search(NETWORKS, data, name="buys", trials=trials, settings=SETTINGS, priority="idle", keep=1)


def ben(platform: mlplat.Platform) -> None:
    """One cell after the other, on a core of his own, as soon as ann has found something."""
    while not begun(platform):
        sleep(0.1)
    began = perf_counter()
    with platform.jobs.lease("cpu:1", name="notebook", priority="explore"):
        print(f"ben has his core after {perf_counter() - began:.1f} s")
        print(visits().group_by("pages").agg(pl.col("buys").mean(), pl.len()).sort("pages"))
        sleep(1)
        print(platform.leaderboard("buys").select("version", "log_loss", "gold"))
        sleep(1)
        best = min(trial.values[0] for trial in platform.trials("buys") if trial.values)
        print(f"best of ann's trials so far: {best:.4f}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--as", dest="who", choices=("ann", "ben"), help="what the script starts itself")
    given = parser.parse_args()
    if given.who:
        with mlplat.connect(given.home, tenant=given.who) as platform:
            ann(platform, given.trials) if given.who == "ann" else ben(platform)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(given.home or Path(folder) / "home", given.trials)
