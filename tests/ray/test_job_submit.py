"""The main job on a cluster that somebody else started, submitted the way its users do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from mlplat._ray.session import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head on this machine with a dashboard and a token; yields the environment that reaches it."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    port, dashboard, client = free_port(), free_port(), free_port()
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats"),
        *(
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={client}",
        ),
        *("--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--object-store-memory=400000000"),
        *("--min-worker-port=0", "--max-worker-port=0"),
    ]
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=tmp_path
        )
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(head, url, token.read_text(), tmp_path / "head.log")
        yield {**env, "RAY_ADDRESS": url}
    finally:
        ended = head.poll() is not None
        family = [] if ended else psutil.Process(head.pid).children(recursive=True)
        for process in (head, *family):
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                process.kill()
        head.wait()
        psutil.wait_procs(family, timeout=15)


def wait_for(head: subprocess.Popen[bytes], url: str, token: str, log: Path) -> None:
    """Until the dashboard answers; fails at once if the head has ended."""
    deadline = time.monotonic() + 90
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
        while time.monotonic() < deadline:
            assert head.poll() is None, log.read_text()[-2000:]
            with contextlib.suppress(httpx.TransportError):
                if client.get("/api/version").status_code == 200 and "ALIVE" in client.get("/api/v0/nodes").text:
                    return  # the node, whose agent takes jobs, comes later than the dashboard
            threading.Event().wait(0.2)
    pytest.fail(f"no dashboard after 90 s: {log.read_text()[-2000:]}")


@pytest.mark.ray
@pytest.mark.alone
def test_the_flights_job_runs_by_ray_job_submit(cluster: dict[str, str]) -> None:
    command = "ray job submit --working-dir . -- python -m examples.flights --quick"
    done = subprocess.run(
        command.split(), env=cluster, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    home = re.search(r"^home: (.+)$", done.stdout, re.MULTILINE)
    if home is not None:
        shutil.rmtree(home[1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.search(r"^parity +0 flights with other features online than offline", done.stdout, re.MULTILINE)
    assert re.search(r"^endpoint +\d+ requests, 0 failed", done.stdout, re.MULTILINE)
