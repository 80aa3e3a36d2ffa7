"""The queue on a real cluster: commands, leases, preemption, and processes that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import mlplat
from benchmarks._jobs.real import Urgent
from mlplat.errors import InvalidInput, NotFound, Refused, Unavailable
from mlplat.jobs import GaveWay, Lease, Rules
from mlplat.model import mlp
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.cli.test_main import variables
from tests.features.filling import fill_source, made, squared
from tests.ray.processes import below
from tests.ray.sold import sold

pytestmark = [pytest.mark.ray, pytest.mark.alone, pytest.mark.usefixtures("ray_cluster")]

PATIENCE_S = 60.0
SLOT = {"FPGA": 1}
BOTH = {"workers": 2, "FPGA": 1}
STEPS = """
import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
def give_way(*_):
    sys.exit(75)
signal.signal(signal.SIGTERM, give_way)
for step in range(len(path.read_text()) if path.exists() else 0, int(sys.argv[2])):
    time.sleep(0.02)
    with path.open("a") as file:
        file.write(".")
"""


@pytest.fixture
def platform(ray_cluster: Any, tmp_path: Path) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path / "home") as platform:
        platform.jobs.set_rules(Rules(grace_s=2.0))
        yield platform
        for row in platform.jobs.list(ended=0).to_dicts():
            platform.jobs.cancel(row["id"])
        until(lambda: platform.jobs.list(ended=0).height == 0)


def until(true: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    patience = threading.Event()
    for _ in range(round(patience_s / 0.05)):
        if true():
            return
        patience.wait(0.05)
    pytest.fail(f"not so after {patience_s:g} s")


def state(platform: mlplat.Platform, job_id: str) -> str:
    return str(platform.jobs.get(job_id)["state"])


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def controller() -> psutil.Process:
    """The newest: those of other homes end when they have had nothing to do for a while."""
    return max(below("ray::Controller"), key=lambda p: p.create_time())


def test_a_command_runs_once_on_each_worker_and_its_output_is_in_the_home(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    code = "import os; print(os.environ['MLPLAT_RANK'], os.environ['MLPLAT_WORLD_SIZE'], os.environ['A'], os.getcwd())"
    job_id = platform.jobs.submit(python(code), compute=BOTH, folder=tmp_path, env={"variables": {"A": "b"}})
    found = platform.jobs.wait(job_id, timeout_s=PATIENCE_S)
    assert (found["state"], found["leases"], found["tenant"]) == ("done", 1, "default")
    logs = {path.name: path.read_text() for path in (platform.home / "jobs" / job_id).iterdir()}
    assert logs == {"1.0.log": f"0 2 b {tmp_path}\n", "1.1.log": f"1 2 b {tmp_path}\n"}
    usage = platform.jobs.usage()
    assert usage["tenant"].to_list() == ["default"]
    assert usage["resource"].to_list() == ["FPGA"]
    assert platform.jobs.held().row(0, named=True)["workers"] == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (python("raise SystemExit(3)"), "its command ended with exit code 3"),
        (python("import os; os.kill(os.getpid(), 9)"), "its command was killed by signal 9"),
        (["/no/such/program"], "its command ended with exit code 127"),
    ],
)
def test_a_command_that_fails_says_how(platform: mlplat.Platform, command: list[str], reason: str) -> None:
    found = platform.jobs.wait(platform.jobs.submit(command, compute=SLOT), timeout_s=PATIENCE_S)
    assert (found["state"], found["reason"]) == ("failed", reason)


def test_what_can_never_run_is_refused_and_what_is_not_there_is_said(platform: mlplat.Platform) -> None:
    with pytest.raises(Refused, match="the whole cluster has 2"):
        platform.jobs.submit(["true"], compute={"FPGA": 3})
    with pytest.raises(InvalidInput, match="priority='urgent' is not one of production, normal, explore, idle"):
        platform.jobs.submit(["true"], priority="urgent")
    with pytest.raises(InvalidInput, match="pool='gpu' is not one of default"):
        platform.jobs.submit(["true"], pool="gpu")
    with pytest.raises(InvalidInput, match="write cpu:1"):
        platform.jobs.submit(["true"], compute="cpu:0")
    with pytest.raises(NotFound, match="no job 'nothing'"):
        platform.jobs.cancel("nothing")
    assert platform.jobs.list().height == 0


def test_production_takes_slots_back_and_who_gave_them_goes_on_where_it_was(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    job_id = platform.jobs.submit(python(STEPS, steps, 200), compute=SLOT, priority="explore")
    other = platform.jobs.submit(python(STEPS, tmp_path / "other", 10_000), compute=SLOT, priority="idle")
    until(lambda: steps.exists() and (tmp_path / "other").exists())
    with platform.jobs.lease(BOTH, priority="production") as lease:
        assert lease.size == 2
        assert not lease.stop()
        stopped = len(steps.read_text())
        row = platform.jobs.get(job_id)
        assert row["state"] == "queued"
        assert row["reason"].startswith("others have the slots")
        assert stopped < 200
    assert platform.jobs.wait(job_id, timeout_s=PATIENCE_S)["leases"] == 2
    assert steps.read_text() == "." * 200
    platform.jobs.cancel(other)
    assert platform.jobs.wait(other, timeout_s=PATIENCE_S)["state"] == "cancelled"


def test_who_does_not_listen_is_stopped_hard_after_the_grace_and_says_so(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    deaf = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(15, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    )
    job_id = platform.jobs.submit(python(deaf, ready), compute=BOTH, priority="idle")
    until(ready.exists)
    with platform.jobs.lease(SLOT):
        (row,) = platform.jobs.held().filter(stopped=True).to_dicts()
        assert row["job"] == job_id
        assert row["reason"].endswith("it did not stop within 2 s and was stopped hard")


def test_work_of_this_process_gives_way_and_is_called_again(platform: mlplat.Platform) -> None:
    calls: list[int] = []
    running = threading.Event()

    def work(lease: Lease) -> str:
        calls.append(lease.number)
        running.set()
        while len(calls) == 1:
            if lease.stop():
                raise GaveWay
            threading.Event().wait(0.02)
        return "done"

    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(platform.jobs.run(work, BOTH, priority="explore")))
    thread.start()
    assert running.wait(PATIENCE_S)
    with platform.jobs.lease(SLOT, priority="production"):
        pass
    thread.join(PATIENCE_S)
    assert (found, calls) == (["done"], [1, 2])


def test_what_work_raises_is_raised_and_its_slots_are_free(platform: mlplat.Platform) -> None:
    def work(lease: Lease) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        platform.jobs.run(work, BOTH)
    with platform.jobs.lease(BOTH):
        pass
    assert platform.jobs.list()["state"].to_list()[0] == "failed"


def test_a_controller_that_is_killed_loses_nothing_and_doubles_nothing(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    running = platform.jobs.submit(python(STEPS, steps, 150), compute=SLOT)
    waiting = platform.jobs.submit(["true"], compute=BOTH)
    until(steps.exists)
    before = controller()
    before.kill()
    assert platform.jobs.wait(running, timeout_s=PATIENCE_S)["leases"] == 1
    assert steps.read_text() == "." * 150
    assert platform.jobs.wait(waiting, timeout_s=PATIENCE_S)["state"] == "done"
    assert controller().pid != before.pid


def test_slots_of_a_process_that_dies_come_back(platform: mlplat.Platform, ray_cluster: Any) -> None:
    code = (
        "import mlplat, sys, time\n"
        "with mlplat.connect(sys.argv[1], ray=sys.argv[2], tenant='ann') as platform:\n"
        "    with platform.jobs.lease({'workers': 2, 'FPGA': 1}):\n"
        "        print('has them', flush=True)\n"
        "        time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(platform.home), ray_cluster.address]
    with subprocess.Popen(command, env=variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has them\n"
        process.kill()
    with platform.jobs.lease(BOTH):
        (row,) = platform.jobs.list().filter(tenant="ann").to_dicts()
    assert (row["state"], row["reason"]) == ("failed", "the process that asked for it is gone")


def test_a_cluster_that_is_killed_is_followed_by_one_that_finds_the_queue(tmp_path: Path) -> None:
    home, steps = tmp_path / "home", tmp_path / "steps"
    first = (
        "import mlplat, sys, time\n"
        "with mlplat.connect(sys.argv[1]) as platform:\n"
        "    ids = [platform.jobs.submit(sys.argv[2:], compute='cpu:1') for _ in range(1)]\n"
        "    print(*ids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    again = (
        "import mlplat, sys\n"
        "with mlplat.connect(sys.argv[1]) as platform:\n"
        "    print(platform.jobs.wait(sys.argv[2], timeout_s=120))\n"
    )
    command = [sys.executable, "-c", first, str(home), *python(STEPS, steps, 300)]
    with subprocess.Popen(command, env=variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        until(steps.exists)
        family = psutil.Process(process.pid).children(recursive=True)
        for one in (*family, process):
            one.kill()
        psutil.wait_procs(family, timeout=PATIENCE_S)
    until(lambda: not any(str(steps) in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])))
    done = len(steps.read_text())
    assert 0 < done < 300
    ended = subprocess.run(
        [sys.executable, "-c", again, str(home), job_id], env=variables(), capture_output=True, text=True, check=True
    )
    assert "'state': 'done'" in ended.stdout
    assert "'leases': 2" in ended.stdout
    assert steps.read_text() == "." * 300


def test_the_command_line_goes_the_same_way(platform: mlplat.Platform, ray_cluster: Any, tmp_path: Path) -> None:
    environment = {**variables(), "MLPLAT_HOME": str(platform.home), "MLPLAT_RAY": ray_cluster.address}

    def jobs(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "mlplat.cli.main", "jobs", *words]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr
        return ended.stdout

    jobs("tenant", "ann", "--weight", "2", "--quota", "FPGA=1")
    assert json.loads(jobs("rules", "--json"))["tenants"]["ann"]["quota"] == {"default": {"FPGA": 1.0}}
    said = jobs("submit", "--wait", "--tenant", "ann", "--compute", '{"FPGA": 1}', "--", "echo", "hello")
    job_id = said.split()[0]
    assert said == f"{job_id} done\n"
    assert jobs("logs", job_id) == "hello\n"
    row = json.loads(jobs("list", "--json"))[-1]
    assert (row["id"], row["tenant"], row["state"], row["compute"]) == (job_id, "ann", "done", "1 x (1 FPGA)")
    assert "ann" in jobs("usage")
    assert jobs("show", "nothing", code=2) == ""
    with platform.jobs.lease(BOTH, preemptible=False):
        waits = jobs("submit", "--compute", '{"FPGA": 1}', "sleep", "600").strip()
        until(lambda: "others have the slots" in jobs("show", waits))
        jobs("cancel", waits)
    assert platform.jobs.wait(waits, timeout_s=PATIENCE_S)["state"] == "cancelled"


def test_without_a_cluster_a_job_waits_for_one(tmp_path: Path) -> None:
    environment = {**variables(), "MLPLAT_HOME": str(tmp_path / "home")}
    mlplat.connect(tmp_path / "home").close()

    def jobs(*words: str) -> str:
        command = [sys.executable, "-m", "mlplat.cli.main", "jobs", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    job_id = jobs("submit", "--data-gb", "onprem=800", "true").strip()
    (row,) = json.loads(jobs("list", "--json"))
    assert (row["id"], row["state"], row["priority"]) == (job_id, "queued", "normal")
    jobs("cancel", job_id)


def test_a_wait_that_is_too_long_says_where_the_job_stands(platform: mlplat.Platform) -> None:
    job_id = platform.jobs.submit(["sleep", "600"], compute=SLOT)
    with pytest.raises(Unavailable, match=f"the job {job_id} has not ended after 0.1 s: it is "):
        platform.jobs.wait(job_id, timeout_s=0.1)


def test_what_is_reserved_is_given_back_to_what_is_outside_of_the_queue(
    platform: mlplat.Platform, tmp_path: Path
) -> None:
    import ray

    platform.jobs.set_rules(Rules(grace_s=2.0, reserved={"default": {"FPGA": 1}}))
    steps = tmp_path / "steps"
    job_id = platform.jobs.submit(python(STEPS, steps, 10_000), compute=BOTH, priority="idle")
    until(steps.exists)

    class Outside:
        def answers(self) -> bool:
            return True

    actor = ray.remote(Outside).options(num_cpus=0, resources=SLOT).remote()
    assert ray.get(actor.answers.remote(), timeout=PATIENCE_S)
    assert platform.jobs.get(job_id)["state"] == "queued"
    ray.kill(actor)
    until(lambda: state(platform, job_id) == "running")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # its own settings
def test_a_training_gives_way_and_ends_with_the_weights_of_a_calm_one(platform: mlplat.Platform) -> None:
    settings = TrainSettings(epochs=30, patience=30, holdout_s=24 * 3600, batch_size=64)
    workers, data = {"workers": 2, "CPU": 1, "FPGA": 1}, sold(platform)
    calm = platform.train(mlp((8,)), data, settings=settings, compute=workers, progress=Silent())
    platform.session.share()
    urgent = Urgent(platform.jobs, [200], BOTH)
    found = platform.train(mlp((8,)), data, settings=settings, compute=workers, progress=urgent, priority="explore")
    urgent.join()
    assert len(urgent.resumed) == 2
    assert found.model.digest == calm.model.digest
    (job_id,) = platform.jobs.list().filter(name="sold")["id"].to_list()
    row = platform.jobs.wait(job_id, timeout_s=PATIENCE_S)  # its slots may just be on their way back
    assert (row["state"], row["leases"], row["priority"]) == ("done", 2, "explore")


def test_the_actors_of_a_view_come_from_the_queue_and_give_way(platform: mlplat.Platform) -> None:
    platform.session.share()
    fill_source(platform.features, batches=2, rows=40_000)
    operation = platform.features.backfill(squared)
    with platform.jobs.lease({"workers": 1, "CPU": 4}, priority="production", name="urgent"):
        pass
    operation.result(timeout_s=PATIENCE_S)
    assert made(platform.home).height == 80_000
    assert "view squared" in platform.jobs.list()["name"].to_list()
