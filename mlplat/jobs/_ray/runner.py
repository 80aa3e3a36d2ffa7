"""What runs a job's command on a bundle of its lease."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mlplat.config import environment
from mlplat.jobs import guard
from mlplat.jobs._ray.world import group_of
from mlplat.jobs.record import Command, Record

NAMESPACE = "mlplat"


class Runner:
    """One process of the command. It ends with this actor, whatever ends that."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = Lock()

    def run(self, command: Command, variables: dict[str, str], log: str) -> int:
        """Its exit code; a negative one is the signal that ended it. It runs once, however often this is called."""
        with self._lock:
            if self._process is None:
                self._process = self._started(command, variables, Path(log))
            if self._stopped:
                self._process.send_signal(signal.SIGTERM)
        return guard.code_of(self._process.wait())

    def stop(self) -> None:
        """Ask it to: SIGTERM, once. Asked before it has begun it is asked then."""
        with self._lock:
            if not self._stopped and self._process is not None:
                self._process.send_signal(signal.SIGTERM)
            self._stopped = True

    def _started(self, command: Command, variables: dict[str, str], path: Path) -> subprocess.Popen[bytes]:
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {**environment().variables, **variables, **dict(command.variables)}
        with path.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-S", guard.__file__, json.dumps([*command.arguments])],
                cwd=command.folder,
                env=own,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def launch(record: Record, group_id: str, log: str, variables: dict[str, str]) -> list[Any]:
    """A process on each bundle, or those that are there; what gives each one's exit code."""
    command, group = record.command, group_of(group_id)
    assert command is not None
    resources = dict(record.job.each)
    size = sum(count for _, count in record.placed)
    found = []
    for rank in range(size):
        actor = (
            ray.remote(Runner)
            .options(
                name=f"{record.group}.{rank}",
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_concurrency=3,
                num_cpus=resources.get("CPU", 0.0),
                num_gpus=resources.get("GPU", 0.0),
                resources={name: amount for name, amount in resources.items() if name not in {"CPU", "GPU", "memory"}},
                memory=resources.get("memory"),
                runtime_env=_runtime_env(command),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            )
            .remote()
        )
        own = {**variables, "MLPLAT_RANK": str(rank), "MLPLAT_WORLD_SIZE": str(size)}
        found.append((actor, actor.run.remote(command, own, f"{log}.{rank}.log")))
    return found


def _runtime_env(command: Command) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    if command.packages:
        found["pip"] = list(command.packages)
    if command.image:
        found["image_uri"] = command.image
    return found or None
