"""A look at a home's local cluster from outside: nothing is started, and nobody joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlplat._ray import record

_PATIENCE_S = 2.0


def look(home: Path) -> dict[str, Any] | None:
    """What runs for the home: `{"address", "pid", "shared", "nodes": [{"id", "address", "alive", "resources"}]}`.

    None if nothing does; `nodes` is empty if the cluster does not answer within 2 s.
    """
    cluster = record.read_cluster(home)
    if cluster is None:
        return None
    return {"address": cluster.address, "pid": cluster.pid, "shared": cluster.shared, "nodes": _nodes(home, cluster)}


def _nodes(home: Path, cluster: record.Cluster) -> list[dict[str, Any]]:
    from mlplat._ray.connect import authenticate

    authenticate(record.token_file(home))
    from ray._raylet import GcsClient
    from ray.exceptions import RayError

    try:
        found = GcsClient(address=cluster.address).get_all_node_info(timeout=_PATIENCE_S)
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
