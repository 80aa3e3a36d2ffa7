"""The queue on a real local cluster: fairness, how soon production starts, what preemption loses, how fast jobs are recorded."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

import sqlalchemy as sa

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._form import alternately
from benchmarks._jobs.simulated import SLOTS, TENANTS, jain
from benchmarks._training.kills import Counting
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from benchmarks._training.steps import FLIGHTS
from mlplat._ray.session import Session
from mlplat.config import environment
from mlplat.jobs import GaveWay, Jobs, Lease, Policy, Rules, Tenant
from mlplat.train import Recovery, TrainSettings
from mlplat.train.progress import Plan, Silent

STEP_S = 0.05
WEIGHTS = {f"t{i}": 2.0 if i < 2 else 1.0 for i in range(TENANTS)}


@contextmanager
def cluster(folder: Path, *, cpus: int | None = None) -> Iterator[mlplat.Platform]:
    """A platform on a local cluster with eight logical accelerators, which others may use too."""
    with (
        Session.start(None, home=folder / "ray", env=environment(), cpus=cpus, resources={"FPGA": SLOTS}),
        mlplat.connect(folder / "home") as platform,
    ):
        yield platform


def shared(scene: Scene) -> Figures:
    """Ten tenants of two weights always want more than there is. Jobs take from half a second to four, and run for a second
    before others may have their slots."""
    seconds, wide = scene.size(120, 8), scene.size(6, 2)
    rules = Rules(
        tenants={name: Tenant(name=name, weight=weight) for name, weight in WEIGHTS.items()},
        policy=Policy(slice_s=4.0),
        grace_s=5.0,
    )
    over = threading.Event()
    with cluster(scene.folder) as platform:
        platform.jobs.set_rules(rules)
        threads = [
            threading.Thread(target=_flood, args=(_of(platform, name), 0.5 * 2 ** (i % 4), over))
            for i, name in enumerate(WEIGHTS)
            for _ in range(wide)
        ]
        began = perf_counter()
        for thread in threads:
            thread.start()
        over.wait(seconds)
        over.set()
        for thread in threads:
            thread.join()
        took = perf_counter() - began
        held = platform.jobs.held()
    first, last = held["began"].min(), held["ended"].max()
    assert first is not None
    assert last is not None
    service: dict[str, float] = defaultdict(float)
    for row in held.iter_rows(named=True):  # all of them wanted slots from the second to the last but one
        begins = max(row["began"], first + timedelta(seconds=2))
        ends = min(row["ended"], first + timedelta(seconds=seconds - 1))
        service[row["tenant"]] += max(0.0, (ends - begins).total_seconds()) * row["workers"]
    weighted = [service[name] / weight for name, weight in WEIGHTS.items()]
    note = f"{held.height} leases in {took:.0f} s; slot-seconds by weight {', '.join(f'{one:.0f}' for one in weighted)}"
    return Figures(ours=jain(weighted), note=note)


def production(scene: Scene) -> Figures:
    """From its submission until its slots are there, on a cluster that is full of work which steps every 50 ms."""
    found = []
    over = threading.Event()
    with cluster(scene.folder) as platform:
        threads = [threading.Thread(target=_flood, args=(_of(platform, "many"), 1e9, over)) for _ in range(SLOTS)]
        for thread in threads:
            thread.start()
        for _ in range(scene.size(15, 2)):
            _until(lambda: platform.jobs.list(ended=0).filter(state="running").height == SLOTS)
            began = perf_counter()
            with platform.jobs.lease({"workers": SLOTS // 2, "FPGA": 1}, priority="production"):
                found.append(perf_counter() - began)
        over.set()
        for thread in threads:
            thread.join()
    return Figures(ours=max(found), note=f"of {len(found)}; the median is {median(found):.2f} s")


def resumed(scene: Scene) -> Figures:
    """A training on two workers that gives way to five production jobs."""
    times, rows = scene.size(5, 1), scene.size(600_000, 60_000)
    data = training_set(scene.folder / "data", rows=rows, numbers=30)
    epochs = scene.size(10, 4)
    settings = TrainSettings(
        epochs=epochs, patience=epochs, holdout_s=HELD_OUT_ROWS, recovery=Recovery(steps=1_000_000, failures=0)
    )
    steps = epochs * ((rows - HELD_OUT_ROWS) // settings.batch_size)
    counted = {name: scene.folder / name for name in ("preempted", "calm")}
    for folder in counted.values():
        folder.mkdir()
    with cluster(scene.folder, cpus=2) as platform:
        platform.session.share()
        urgent = Urgent(platform.jobs, [steps * (i + 1) // (times + 1) for i in range(times)], "cpu:2")
        digests = [
            platform.train(
                FLIGHTS, data, compute="cpu:2", settings=settings, loss=Counting(counted[name]), progress=progress
            ).model.digest
            for name, progress in (("preempted", urgent), ("calm", Silent()))
        ]
        urgent.join()
    done = {name: sum(file.stat().st_size for file in folder.iterdir()) for name, folder in counted.items()}
    in_time = scene.quick or len(urgent.resumed) == times + 1  # a quick one may have ended before it is asked
    wrong = [] if in_time else [f"{len(urgent.resumed) - 1} of {times} times it gave way"]
    wrong += [] if digests[0] == digests[1] else ["the weights are not those of an undisturbed run"]
    note = f"gave way at steps {urgent.resumed[1:]} of {steps}"
    return Figures(ours=float(done["preempted"] - done["calm"]), wrong="; ".join(wrong), note=note)


def submitted(scene: Scene) -> Figures:
    """Jobs a second from `submit`, against bare inserts of the same rows into the same database, each durable by itself."""
    with cluster(scene.folder) as platform:
        platform.jobs.submit(["true"], compute={"FPGA": SLOTS}, priority="idle")
        engine = sa.create_engine(platform.metadata_url)
        table = sa.Table(
            "bare", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("row", sa.Text)
        )
        table.create(engine)
        with engine.connect() as connection:
            row = connection.execute(sa.text("SELECT record FROM mlplat_jobs")).scalar()

        def ours() -> float:
            began = perf_counter()
            platform.jobs.submit(["true"], compute={"FPGA": SLOTS}, priority="idle")
            return perf_counter() - began

        def bare() -> float:
            began = perf_counter()
            with engine.begin() as connection:
                connection.execute(sa.insert(table).values(row=row))
            return perf_counter() - began

        mine, theirs = alternately(scene.size(2_000, 20), ours, bare)
        engine.dispose()
    return Figures(ours=len(mine) / sum(mine), reference=len(theirs) / sum(theirs))


class Urgent(Silent):
    """Asks for `compute` with priority production when a run has come to each of these steps. `resumed` are those it went on
    from."""

    def __init__(self, jobs: Jobs, at: list[int], compute: str | dict[str, float]) -> None:
        self._jobs, self._at, self._compute = jobs, sorted(at, reverse=True), compute
        self._threads: list[threading.Thread] = []
        self.resumed: list[int] = []

    def begin(self, plan: Plan) -> None:
        self.resumed.append(plan.done)

    def step(self, done: int, loss: float) -> None:
        if self._at and done >= self._at[-1]:
            self._at.pop()
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with self._jobs.lease(self._compute, priority="production", name="urgent"):
            pass


def _of(platform: mlplat.Platform, tenant: str) -> Jobs:
    """The queue as another process sees it, which works for somebody else."""
    mine = platform.jobs
    return Jobs(mine._open_ledger, mine._find_cluster, tenant=tenant, clock=mine._clock)


def _flood(jobs: Jobs, seconds: float, over: threading.Event) -> None:
    """One job after another, of so many seconds."""

    def work(lease: Lease) -> bool:
        nonlocal left_s
        while left_s > 0 and not over.is_set():
            if lease.stop():
                raise GaveWay
            over.wait(STEP_S)
            left_s -= STEP_S
        return True

    while not over.is_set():
        left_s = seconds
        jobs.run(work, {"FPGA": 1}, priority="explore", min_run_s=1.0)


def _until(true: Callable[[], bool]) -> None:
    while not true():
        threading.Event().wait(STEP_S)
