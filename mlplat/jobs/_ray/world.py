"""What the controller sees of a cluster, and what it does to it. Leases are placement groups, each bundle of which is tied to the
node that the plan chose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import state
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeStatus
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from mlplat.jobs.job import Node
from mlplat.jobs.record import Record
from mlplat.jobs.turn import Group

_NODE = "ray.io/node-id"
_STATES: Mapping[str, Group] = {
    "PENDING": "pending",
    "PREPARED": "pending",
    "CREATED": "ready",
    "RESCHEDULING": "broken",
}
_OWN = ("node:", "object_store_memory", "accelerator_type:")
"""Resources that are the nodes' own affair."""


class World:
    """`scope` tells the leases of a home from those of others on the same cluster, which are theirs to remove."""

    def __init__(self, scope: str) -> None:
        self._prefix = f"mlplat.{scope}."
        self.ids: dict[str, str] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        self._client: GcsClient | None = None

    def groups(self) -> dict[str, Group]:
        """The placement groups that are leases, by name."""
        table = placement_group_table().values()
        self._groups = {
            one["name"].removeprefix(self._prefix): one
            for one in table
            if one["name"].startswith(self._prefix) and one["state"] in _STATES
        }
        self.ids = {name: one["placement_group_id"] for name, one in self._groups.items()}
        return {name: _STATES[one["state"]] for name, one in self._groups.items()}

    def nodes(self) -> list[Node]:
        """Those that are alive, with all that they have."""
        return [
            Node(id=node["NodeID"], total=_shared(node["Resources"]), labels=dict(node["Labels"]))
            for node in ray.nodes()
            if node["Alive"]
        ]

    def used(self, nodes: list[Node]) -> dict[str, dict[str, float]]:
        """What neither leases nor nobody has. Call `groups` before."""
        leased: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for one in self._groups.values():
            if one["state"] == "CREATED":
                for index, node in one["bundles_to_node_id"].items():
                    for name, amount in one["bundles"][index].items():
                        leased[node][name] += amount
        free = state.available_resources_per_node()
        return {
            node.id: {
                name: left
                for name, has in node.total.items()
                if (left := has - free.get(node.id, {}).get(name, 0.0) - leased[node.id][name]) > 1e-6
            }
            for node in nodes
            if node.id in free
        }

    def asked(self) -> list[tuple[dict[str, float], int]]:
        """What tasks and actors outside of leases wait for, and how many of each."""
        found = self._state().pending_resource_requests
        wanted = ((dict(one.request.resources_bundle), one.count) for one in found)
        return [(each, count) for each, count in wanted if each and _shared(each) == each]

    def draining(self) -> frozenset[str]:
        """Nodes that will be gone, as when a cloud takes a spot machine away."""
        return frozenset(one.node_id.hex() for one in self._state().node_states if one.status == NodeStatus.DRAINING)

    def _state(self) -> ClusterResourceState:
        if self._client is None:
            self._client = GcsClient(address=ray.get_runtime_context().gcs_address)
        return get_cluster_resource_state(self._client)

    def drivers(self) -> frozenset[str]:
        """Processes that are connected to the cluster."""
        return frozenset(driver_name(job["JobID"]) for job in state.jobs() if not job["IsDead"])

    def place(self, record: Record) -> None:
        nodes = [node for node, count in record.placed for _ in range(count)]
        placement_group(
            [dict(record.job.each)] * len(nodes),
            name=self._prefix + record.group,
            lifetime="detached",
            bundle_label_selector=[{_NODE: node} for node in nodes],
        )

    def remove(self, name: str) -> None:
        """With everything that runs in it."""
        if name in self.ids:
            remove_placement_group(group_of(self.ids[name]))


def cluster_name() -> str:
    """Another one each time that a cluster starts."""
    return str(ray._private.worker._global_node.session_name)


def driver_name(ray_job_id: str) -> str:
    """Ray counts them anew in each cluster."""
    return f"{cluster_name()}/{ray_job_id}"


def group_of(group_id: str) -> PlacementGroup:
    return PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id)))


def _shared(resources: Mapping[str, float]) -> dict[str, float]:
    return {
        name: amount
        for name, amount in resources.items()
        if not name.startswith(_OWN) and "_group_" not in name and name != "bundle"
    }
