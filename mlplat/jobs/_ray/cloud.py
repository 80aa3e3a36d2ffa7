"""What a cluster may buy, and what it is asked to: both are in the cluster's own memory, where its autoscaler and the
controller of its jobs meet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ray
from ray.autoscaler.v2.sdk import request_cluster_resources
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from mlplat.clock import Clock
from mlplat.jobs.burst import Bursting
from mlplat.jobs.cloud import Cloud, own_before_bought, selector

_KEY, FLOOR, NAMESPACE = b"cloud", b"floor", "mlplat_cluster"
READ_S = 5.0
"""How old what is known of it may be."""
AGAIN_S = 60.0
"""What was asked for is said again, in case that the cluster's memory was lost."""


def publish(cloud: Cloud) -> None:
    """The autoscaler says it once."""
    _internal_kv_put(_KEY, json.dumps(cloud.to_json()).encode(), overwrite=True, namespace=NAMESPACE)


def published() -> Cloud | None:
    """None: nothing can be bought."""
    found = _internal_kv_get(_KEY, namespace=NAMESPACE)
    return Cloud.of_json(json.loads(found)) if found else None


def own_first(labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ray's options for a task, an actor, a Serve replica, or `map_batches`, that takes no slots from the queue of jobs: on own
    machines (with these `labels`) while there is room, else on bought ones. Of a cluster that buys none, only the labels.

    Such work does not wait for own machines and does not come back to them: only jobs do."""
    if published() is not None:
        return own_before_bought(labels or {})
    return {"label_selector": dict(labels)} if labels else {}


def keep(machines: Mapping[str, int]) -> None:
    """There are to be so many bought machines of each kind, whether there is work for them or not, until this is said again."""
    cloud = published()
    kinds = {} if cloud is None else {kind.name: kind for kind in cloud.kinds}
    floor = [
        {"resources": dict(kinds[name].total), "label_selector": dict(kinds[name].labels)}
        for name, count in sorted(machines.items())
        for _ in range(count)
    ]
    _internal_kv_put(FLOOR, json.dumps(floor).encode(), overwrite=True, namespace=NAMESPACE)
    request_cluster_resources(ray.get_runtime_context().gcs_address, floor)


def _kept() -> list[dict[str, object]]:
    found = _internal_kv_get(FLOOR, namespace=NAMESPACE)
    return list(json.loads(found)) if found else []


class Market:
    """What can be bought, and what is wanted of that. Ray has one such list for a cluster: what somebody else requests of its
    autoscaler takes the place of this one until it is said again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cloud: Cloud | None = None
        self._floor: list[dict[str, object]] = []
        self._read_s = self._asked_s = float("-inf")
        self._asked: list[dict[str, object]] | None = None  # who was here before may have left something

    def cloud(self) -> Cloud | None:
        if (now_s := self._clock.elapsed_s()) - self._read_s >= READ_S:
            self._cloud, self._floor, self._read_s = published(), _kept(), now_s
        return self._cloud

    def ask(self, burst: Bursting) -> None:
        """The autoscaler is to see to it that there are such machines, beside those that are busy."""
        assert self._cloud is not None
        kinds = {kind.name: kind for kind in self._cloud.kinds}
        wanted: list[dict[str, object]] = [
            {"resources": dict(kinds[name].total), "label_selector": selector(kinds[name], burst.busy)}
            for name, count in sorted(burst.machines.items())
            if name in kinds
            for _ in range(count)
        ] + self._floor
        now_s = self._clock.elapsed_s()
        if wanted == self._asked and (not wanted or now_s - self._asked_s < AGAIN_S):
            return
        request_cluster_resources(ray.get_runtime_context().gcs_address, wanted)
        self._asked, self._asked_s = wanted, now_s
