"""A look at a home's local cluster from outside: nothing is started, and nobody joins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlplat._ray import record

_PATIENCE_S = 2.0
_START_S = 20.0


def look(home: Path) -> dict[str, Any] | None:
    """What runs for the home: `{"address", "pid", "shared", "nodes": [{"id", "address", "alive", "resources"}]}`.

    None if nothing does; `nodes` is empty if the cluster does not answer within 2 s.
    """
    cluster = record.read_cluster(home)
    if cluster is None:
        return None
    return {"address": cluster.address, "pid": cluster.pid, "shared": cluster.shared, "nodes": _ask(home)}


def _ask(home: Path) -> list[dict[str, Any]]:
    """In a process of its own: Ray holds one token per process, and another cluster's would end a connection that is there."""
    command = [sys.executable, "-m", "mlplat._ray.look", str(home)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return []
    return found


def _nodes(home: Path, address: str) -> list[dict[str, Any]]:
    from mlplat._ray.connect import authenticate

    authenticate(record.token_file(home))
    from ray._raylet import GcsClient
    from ray.exceptions import RayError

    try:
        found = GcsClient(address=address).get_all_node_info(timeout=_PATIENCE_S)
    except RayError:
        return []
    return [
        {
            "id": id_.hex(),
            "address": node.node_manager_address,
            "alive": node.state == 0,  # rpc::GcsNodeInfo::ALIVE
            "resources": dict(node.resources_total),
        }
        for id_, node in found.items()
    ]


def _main(home: Path) -> None:
    cluster = record.read_cluster(home)
    sys.stdout.write(json.dumps([] if cluster is None else _nodes(home, cluster.address)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
