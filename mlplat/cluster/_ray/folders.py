"""Machines that are folders of this one, for Ray's own cluster launcher (2.60): what runs "on" one are processes here."""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from ray.autoscaler._private.subprocess_output_util import ProcessRunnerError
from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_provider import NodeProvider

from mlplat.clock import US_PER_S, SystemClock
from mlplat.cluster._ray.provider import Provider
from mlplat.cluster.hosts import Alive
from mlplat.cluster.rehearsal import BIN, MACHINE
from mlplat.config import environment
from mlplat.disk import write_atomically

HERE = "127.0.0.1"


class Commands(CommandRunnerInterface):  # type: ignore[misc]
    """Runs what is to run on a machine here, with the machine's folder as its home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self,
        cmd: str | None = None,
        timeout: int = 120,
        exit_on_fail: bool = False,
        port_forward: Sequence[tuple[int, int]] | None = None,
        with_output: bool = False,
        environment_variables: Mapping[str, object] | None = None,
        run_env: str = "auto",
        ssh_options_override_ssh_key: str = "",
        shutdown_after_run: bool = False,
    ) -> str:
        if port_forward:
            asyncio.run(_forward(port_forward))
        if not cmd:
            return ""
        if re.search(r"\bray stop\b", cmd):  # it would stop all Ray of this machine
            end(self.folder)
            cmd = re.sub(r"\bray stop\b( --force)?", "true", cmd)
        given = {name: v if isinstance(v, str) else json.dumps(v) for name, v in (environment_variables or {}).items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            _one_starts(self.folder.parent.parent) if "ray start" in cmd else nullcontext(),
            (self.folder / "commands.log").open("ab") as log,
        ):
            log.write(f"$ {cmd}\n".encode())
            log.flush()
            done = subprocess.run(
                ["bash", "-c", cmd],
                cwd=self.folder,
                env={
                    **environment().variables,
                    **given,
                    "PATH": self._path(),
                    "HOME": str(self.folder),
                    MACHINE: str(self.folder),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if with_output else log,
                stderr=log,
            )
        if done.returncode:
            raise ProcessRunnerError("Command failed", "ssh_command_failed", code=done.returncode, command=cmd)
        return done.stdout.decode() if with_output else ""

    def run_rsync_up(self, source: str, target: str, options: Mapping[str, Any] | None = None) -> None:
        _copy(Path(source).expanduser(), self._at(target))

    def run_rsync_down(self, source: str, target: str, options: Mapping[str, Any] | None = None) -> None:
        _copy(self._at(source), Path(target).expanduser())

    def remote_shell_command_str(self) -> str:
        return f"cd {self.folder} && HOME={self.folder} bash"

    def _path(self) -> str:
        own = (self.folder.parent.parent / BIN, Path(sys.executable).parent)
        return ":".join([*map(str, own), environment().variables.get("PATH", "")])

    def _at(self, path: str) -> Path:
        return self.folder / path[2:] if path.startswith("~/") else Path(path)


class Machines(NodeProvider):  # type: ignore[misc]
    """A site: each machine is a folder under `folder`, with its tags. What is listed outlives the process that made it."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self.folder = Path(provider_config["folder"])
        self.boot_s = float(provider_config.get("boot_s", 0.0))
        self._clock = SystemClock()

    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        found = [file.parent.name for file in sorted(self.folder.glob("*/tags.json"))]
        return [n for n in found if all(self.node_tags(n).get(key) == v for key, v in tag_filters.items())]

    def is_running(self, node_id: str) -> bool:
        made = (self.folder / node_id / "made").read_text()
        return self._clock.now_us() - int(made) >= self.boot_s * US_PER_S

    def is_terminated(self, node_id: str) -> bool:
        return not (self.folder / node_id / "tags.json").exists()

    def node_tags(self, node_id: str) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self.folder / node_id / "tags.json").read_text())
        except FileNotFoundError:  # it ended just now
            return {}
        return found

    def set_node_tags(self, node_id: str, tags: Mapping[str, str]) -> None:
        both = {**self.node_tags(node_id), **tags}
        write_atomically(self.folder / node_id / "tags.json", json.dumps(both).encode())

    def internal_ip(self, node_id: str) -> str:
        return HERE

    external_ip = internal_ip

    def create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],
        tags: Mapping[str, str],
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> dict[str, Any]:
        names = [f"m-{uuid4().hex[:12]}" for _ in range(count)]
        for name in names:
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / "made").write_text(str(self._clock.now_us()))
            self.set_node_tags(name, tags)
        return {name: {} for name in names}

    def terminate_nodes(self, node_ids: Sequence[str]) -> None:
        for name in node_ids:
            (self.folder / name / "tags.json").unlink(missing_ok=True)
            end(self.folder / name)

    def get_command_runner(self, log_prefix: str, node_id: str, *_: Any) -> CommandRunnerInterface:
        return Commands(self.folder / node_id)


class RehearsalProvider(Provider):
    """`mlplat.cluster.Provider`, whose own machines are folders too: what `rehearsal.rehearsed` makes of a cluster's YAML."""

    def get_command_runner(self, log_prefix: str, node_id: str, *given: Any) -> CommandRunnerInterface:
        if node_id.startswith("127."):
            return Commands(Path(self.provider_config["folder"]) / node_id)
        return super().get_command_runner(log_prefix, node_id, *given)

    def _alive(self) -> Alive:
        return lambda host: True


def off() -> None:
    """Switch off the machine on which this runs."""
    folder = Path(environment().variables[MACHINE])
    (folder / "tags.json").unlink(missing_ok=True)
    end(folder)


def end(folder: Path) -> None:
    """Kill what runs on a machine."""
    family: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MACHINE) == str(folder):
                family |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except psutil.Error:  # it ended just now, or is not ours
            continue
    family.pop(psutil.Process().pid, None)
    for process in family.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(family.values()), timeout=10)


@contextmanager
def _one_starts(folder: Path) -> Iterator[None]:
    """Two of Ray's nodes that start at once on one machine wait for each other's ports, up to a minute."""
    with (folder / "starts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def _forward(ports: Sequence[tuple[int, int]]) -> None:
    """Until this process ends, as ssh does."""

    async def one(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while part := await source.read(1 << 16):
                target.write(part)
                await target.drain()
        target.close()

    async def serve(own: int, remote: int) -> None:
        async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, to = await asyncio.open_connection(HERE, remote)
            await asyncio.gather(one(reader, to), one(there, writer))

        async with await asyncio.start_server(both, HERE, own) as server:
            await server.serve_forever()

    await asyncio.gather(*(serve(own, remote) for own, remote in ports))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
