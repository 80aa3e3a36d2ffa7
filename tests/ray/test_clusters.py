"""The YAML files that ship, started by Ray's own launcher with folders of this machine as machines."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from mlplat import launch
from mlplat._ray import flags
from mlplat.cli.main import INTERRUPTED
from mlplat.cluster.certificates import NODES, write
from mlplat.cluster.rehearsal import MACHINE, Rehearsal, prepared
from mlplat.errors import Refused, Unavailable
from tests.ray.processes import below
from tests.ray.test_jobs import until

pytestmark = [pytest.mark.ray, pytest.mark.alone]
ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
WORK = """
import os, sys
import mlplat
with mlplat.connect(os.environ["MLPLAT_HOME"]) as platform:
    print("of", platform.session.total()["GPU"], "GPUs,", sys.argv[1:], open("data.txt").read())
"""
JOIN = """
import sys
import mlplat
from mlplat.errors import MlplatError
try:
    with mlplat.connect(sys.argv[2], ray=sys.argv[1]) as platform:
        print(platform.session.total()["GPU"], "GPUs")
except MlplatError as error:
    print(error)
"""
DRAIN = """
import sys
from ray._raylet import GcsClient
from mlplat.cluster import guard
nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10).values()
host, _, port = sys.argv[1].partition(":")
bought = next(node.node_id.hex() for node in nodes if node.resources_total.get("GPU"))
print("drained:", guard.drained(host, int(port), 60, node=bought))
"""


LAUNCHER = """
import sys
from mlplat import launch
with launch(sys.argv[1], gpus=4, wait_s=300):
    print("it is there", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the paths of Ray's sockets are under it."""
    path = Path(tempfile.mkdtemp(prefix="mlc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def variables() -> dict[str, str]:
    """Of a shell that knows no cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLPLAT_"))}


def on_machines_of(folder: Path) -> list[int]:
    """The processes that run there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MACHINE, "").startswith(f"{folder}/"):
                found.append(process.pid)
    return found


def says(script: str, *words: str, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(
        command, env={**variables(), **environment}, capture_output=True, text=True, timeout=60
    ).stdout


def test_work_goes_to_the_cloud_when_own_gpus_are_full_and_comes_back() -> None:
    command = [sys.executable, "-m", "examples.journeys.k20_burst_to_the_cloud"]
    done = subprocess.run(command, cwd=ROOT, env=variables(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "cat's job: own machines are taken; the cloud is asked for 1 x aws.gpu" in done.stdout
    assert re.search(r"^bought: \['m-\w+'\]$", done.stdout, re.MULTILINE)
    assert "cat's job is done: 600 steps of 600, on 2 leases" in done.stdout
    assert "what was bought is given back" in done.stdout


@pytest.mark.soak
def test_operators_launch_and_data_scientists_write_python() -> None:
    command = [sys.executable, "-m", "examples.journeys.k15_ops_launches"]
    done = subprocess.run(command, cwd=ROOT, env=variables(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.search(r"^cpu:2: AUC 0\.\d+ on visits it never saw", done.stdout, re.MULTILINE)
    assert "version 1 is gold" in done.stdout


def test_a_cluster_for_one_piece_of_work_is_started_used_and_ended(folder: Path, capfd: Any) -> None:
    cluster = prepared(CLUSTERS / "aws.yaml", folder)
    work = folder / "work"
    work.mkdir()
    (work / "work.py").write_text(WORK)
    (work / "data.txt").write_text("sent with it")
    said: list[str] = []
    heard: list[str] = []
    home = str(folder / "home")
    with suppress(ZeroDivisionError), launch(cluster.file, gpus=8, wait_s=300, say=said.append) as launched:
        assert len(cluster.machines("aws")) == 3  # the head, and two with four GPUs each
        job_id = launched.submit(
            "work.py", "a b", home=home, compute={"GPU": 1}, working_dir=work, variables={"MLPLAT_HOME": home}
        )
        assert launched.follow(job_id, heard.append), "".join(heard)
        assert "of 8.0 GPUs, ['a b'] sent with it" in "".join(heard)
        assert launched.list()[-1]["state"] == "SUCCEEDED"
        of_tls = encrypted(cluster, folder)
        assert says(DRAIN, cluster.address, environment=cluster.environment) == "drained: True\n"
        1 / 0  # noqa: B018
    assert any(line.startswith("8 of 8 GPUs are there") for line in said), said
    assert cluster.machines("aws") == []
    assert of_tls["known"] == "8.0 GPUs\n"
    assert "uses TLS, and this process does not: set RAY_USE_TLS=1" in of_tls["without"]
    assert "is not known by its certificate" in of_tls["of another authority"]
    assert of_tls["refused"] == ["UNAVAILABLE", "UNAVAILABLE"]


def encrypted(cluster: Rehearsal, folder: Path) -> dict[str, Any]:
    """What scripts with and without the cluster's certificates are told, and what Ray's port says to who tries all the same."""
    write(folder / "other", "other", [], days=1, renew=False, now=datetime.now(UTC))
    other = folder / "other" / NODES
    given = {"known": cluster.environment, "of another authority": cluster.environment | flags.tls(other)}
    given["without"] = cluster.environment | {flags.USE_TLS: "0"}
    told: dict[str, Any] = {
        name: says(JOIN, cluster.address, str(folder / "home"), environment=environment)
        for name, environment in given.items()
    }
    _, certificate, key = ((other / name).read_bytes() for name in flags.TLS_FILES.values())
    assert cluster.tls is not None
    trusting = grpc.ssl_channel_credentials((cluster.tls / flags.CA).read_bytes(), key, certificate)
    channels = [grpc.insecure_channel(cluster.address), grpc.secure_channel(cluster.address, trusting)]
    told["refused"] = [refusal(channel) for channel in channels]
    return told


def refusal(channel: grpc.Channel) -> str:
    with channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=20)
    return str(raised.value.code().name)


@pytest.mark.soak
def test_a_cluster_whose_launcher_was_killed_ends_itself_once_nobody_works_on_it(folder: Path) -> None:
    def impatient(config: dict[str, Any]) -> None:
        commands = config["head_start_ray_commands"]
        assert commands[-1].count("--idle 60") == 1
        commands[-1] = commands[-1].replace("--idle 60", "--idle 0.5")

    cluster = prepared(CLUSTERS / "aws.yaml", folder, change=impatient)
    command = [sys.executable, "-c", LAUNCHER, str(cluster.file)]
    with subprocess.Popen(command, env=variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "it is there\n"
        assert len(cluster.machines("aws")) == 2
        left = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    try:
        until(lambda: cluster.machines("aws") == [], patience_s=240)
        until(lambda: not on_machines_of(folder))
    finally:
        for child in left:  # its tunnel, if it has not gone with the head
            with suppress(psutil.NoSuchProcess):
                child.kill()


def test_what_no_cluster_of_the_file_could_have_is_refused_before_anything_starts(folder: Path) -> None:
    def broken(config: dict[str, Any]) -> None:
        config["head_start_ray_commands"].insert(0, "exit 3")

    cluster = prepared(CLUSTERS / "aws.yaml", folder, change=broken)
    with pytest.raises(Refused, match=r"33 GPUs were asked for, and .* may have 32 at most"):
        launch(cluster.file, gpus=33).__enter__()
    with pytest.raises(Unavailable, match=r"its head does not start: .*Start command failed"):
        launch(cluster.file, say=lambda line: None).__enter__()
    assert cluster.machines("aws") == []


@pytest.mark.soak
def test_an_operator_rehearses_a_file_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "mlplat.cli.main", "cluster", "rehearse", str(CLUSTERS / "onprem-burst-aws.yaml")]
    with subprocess.Popen(command, env=variables(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        while "Ctrl-C ends it" not in (said or [""])[-1]:
            said.append(process.stdout.readline())
            assert said[-1], said
        exported = dict(re.findall(r"^export (\w+)=(\S+)", "".join(said), re.MULTILINE))
        found = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "status"],
            env=variables() | exported,
            capture_output=True,
            text=True,
        )
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(120) == INTERRUPTED
        finally:
            process.kill()
    assert found.returncode == 0, found.stderr
    assert "1 head" in found.stdout
    assert not Path(exported["RAY_AUTH_TOKEN_PATH"]).exists()
    assert not below(exported["RAY_AUTH_TOKEN_PATH"])
