"""A cluster's YAML on this machine alone: its machines are folders, and what runs on them are processes here. `ray up`, its
commands, Ray's autoscaler and all of mlplat are the real ones, so that an operator can see a file work before anybody pays."""

from __future__ import annotations

import copy
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from mlplat._ray import flags
from mlplat._ray.connect import free_port
from mlplat.clock import US_PER_S, SystemClock
from mlplat.cluster import tls
from mlplat.cluster.certificates import NODES, write
from mlplat.cluster.launch import down, up

if TYPE_CHECKING:
    from mlplat.cluster._ray.folders import Machines
    from mlplat.cluster._ray.folders import RehearsalProvider as Provider

MACHINE = "MLPLAT_REHEARSAL_MACHINE"
"""The variable by which the processes of a machine are found."""
MODULE, SITE_MODULE = "mlplat.cluster.rehearsal.Provider", "mlplat.cluster.rehearsal.Machines"
BIN, TLS = "bin", "tls"
DAYS = 30
"""In which a rehearsal ends."""
STORE_BYTES = 200_000_000
_PORTS = {"head": "6379", "dashboard": "8265"}
_QUICK = "AUTOSCALER_UPDATE_INTERVAL_S=1"


def __getattr__(name: str) -> Any:
    if name in {"Provider", "Machines"}:
        from mlplat.cluster._ray import folders

        return {"Provider": folders.RehearsalProvider, "Machines": folders.Machines}[name]
    raise AttributeError(name)


__all__ = ["Machines", "Provider", "Rehearsal", "prepared", "rehearsal", "rehearsed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A cluster that runs here. `file` is its YAML, `address` what connect(ray=...) takes, `dashboard` a URL, and `token` the
    file with its key; `tls` is the folder with its certificates, if it uses TLS. Scripts find what is in `environment`."""

    file: Path
    folder: Path
    address: str
    dashboard: str
    token: Path
    tls: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        known = {**flags.authentication(self.token), "RAY_USAGE_STATS_ENABLED": "0"}
        known |= flags.tls(self.tls) if self.tls is not None else {}
        return {**known, "RAY_ADDRESS": self.address, "MLPLAT_RAY": self.address}

    def machines(self, site: str) -> list[str]:
        """Those of a site that are there: own ones are of the site "own"."""
        if site == "own":
            return sorted(path.name for path in (self.folder / site).glob("127.*"))
        return sorted(file.parent.name for file in (self.folder / site).glob("*/tags.json"))

    def lose(self, site: str, name: str) -> None:
        """Kill all that runs on a machine, as when its power fails. Its site still lists it."""
        from mlplat.cluster._ray.folders import end

        end(self.folder / site / name)


@contextmanager
def rehearsal(
    file: str | Path,
    folder: Path,
    *,
    change: Callable[[dict[str, Any]], None] = lambda config: None,
    boot_s: float = 0.0,
) -> Iterator[Rehearsal]:
    """Start the cluster of a YAML here, all of it under an empty `folder` whose path is short (sockets have names of at most 107
    bytes), and end it with the block. `change` may change what the YAML says, such as how long a job waits before it bursts."""
    from mlplat.cluster._ray.folders import end

    found = prepared(file, folder, change=change, boot_s=boot_s)
    try:
        up(found.file)
        yield found
    finally:
        down(found.file)
        for machine in folder.glob("*/*/commands.log"):
            end(machine.parent)


def prepared(
    file: str | Path,
    folder: Path,
    *,
    change: Callable[[dict[str, Any]], None] = lambda config: None,
    boot_s: float = 0.0,
) -> Rehearsal:
    """The YAML of the rehearsal and its key, not started."""
    config = yaml.safe_load(Path(file).read_text())
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    certificates = _certificates(config, folder)
    config["file_mounts"] = {there: certificates.get(there, str(token)) for there in config["file_mounts"]}
    change(config)
    port, dashboard = free_port(), free_port()
    config = rehearsed(config, folder, port=port, dashboard=dashboard, client=free_port(), boot_s=boot_s)
    (folder / "cluster.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return Rehearsal(
        file=folder / "cluster.yaml",
        folder=folder,
        address=f"127.0.0.1:{port}",
        dashboard=f"http://127.0.0.1:{dashboard}",
        token=token,
        tls=folder / TLS / NODES if certificates else None,
    )


def _certificates(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """New ones for this machine, by the mounts that bring them; none where no command uses TLS."""
    nodes = folder / TLS / NODES
    found: dict[str, str] = {}
    for command in filter(tls.uses, (command for key in tls.STARTS for command in config[key])):
        for name, path in tls.paths(command).items():
            if (there := tls.mount(path, config["file_mounts"])) is not None:
                found[there] = str(nodes / flags.TLS_FILES[name] if there == path else nodes)
    if found:
        now = datetime.fromtimestamp(SystemClock().now_us() / US_PER_S, tz=UTC)
        write(folder / TLS, config["cluster_name"], _addresses(), days=DAYS, renew=False, now=now)
    return found


def _addresses() -> list[str]:
    """Of this machine: Ray takes the one by which others reach it."""
    named = (one for several in psutil.net_if_addrs().values() for one in several)
    return [one.address for one in named if one.family == socket.AF_INET]


def rehearsed(
    config: Mapping[str, Any], folder: Path, *, port: int, dashboard: int, client: int, boot_s: float = 0.0
) -> dict[str, Any]:
    """The same cluster with all its machines under `folder`, its head on these ports of this machine, and bought machines that
    take `boot_s` seconds to boot.

    What is left out: commands that install something (`*setup_commands`, `initialization_commands`), and what an offer asks its
    cloud for. `shutdown` on a machine ends that machine alone.
    """
    found: dict[str, Any] = copy.deepcopy(dict(config))
    _stand_ins(folder / BIN)
    provider = found["provider"]
    provider |= {"module": MODULE, "folder": str(folder / "own"), "ledger": str(folder / "machines.db")}
    if "metrics" in provider:
        provider["metrics"]["port"] = free_port()
    for name in provider.get("sites", {}):
        provider["sites"][name] = {
            "type": "external",
            "module": SITE_MODULE,
            "folder": str(folder / name),
            "boot_s": boot_s,
        }
    own: dict[str, str] = {}
    for kind in found["available_node_types"].values():
        node = kind["node_config"]
        for host in node.get("hosts", ()):
            own.setdefault(host, f"127.0.0.{len(own) + 1}")
        if "hosts" in node:
            node["hosts"] = [own[host] for host in node["hosts"]]
        for offer in node.get("offers", ()):
            offer["node"] = {}
    for name in found:
        if name.endswith(("setup_commands", "initialization_commands")):
            found[name] = []
    for name, of in (("head_start_ray_commands", _head(folder, client)), ("worker_start_ray_commands", "")):
        found[name] = [_here(command, port, dashboard, of) for command in found[name]]
    return found


def _head(folder: Path, client: int) -> str:
    return f" --temp-dir={folder / 'ray'} --ray-client-server-port={client}"


def _here(command: str, port: int, dashboard: int, of_head: str) -> str:
    """A command with the ports of this machine, and Ray with what two nodes on one machine need."""
    more = f" --object-store-memory={STORE_BYTES} --min-worker-port=0 --max-worker-port=0"
    more += " --dashboard-agent-listen-port=0 --dashboard-agent-grpc-port=0"
    command = command.replace(_PORTS["head"], str(port)).replace(_PORTS["dashboard"], str(dashboard))
    return re.sub(
        r"\bray start\b( --head\b)?",
        lambda m: f"{_QUICK} {m[0]}{more}{of_head}" if m[1] else m[0] + more,
        command,
    )


def _stand_ins(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ends = f'exec {sys.executable} -c "from mlplat.cluster._ray.folders import off; off()"'
    for name, does in (("sudo", 'exec "$@"'), ("shutdown", ends)):
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
