"""Ray's own autoscaler (2.60) under a clock that is set: its scheduler, its reconciler and what they keep, with the provider as a
cluster has it. Only Ray's cluster is made up, by whoever calls `tick`."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray.autoscaler._private.constants import AUTOSCALER_MAX_LAUNCH_BATCH
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, IConfigReader
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager, InstanceUpdatedSubscriber
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import CloudInstanceUpdater
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.instance_manager.subscribers.ray_stopper import RayStopError
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint, ClusterResourceState, NodeState, NodeStatus
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.core.generated.instance_manager_pb2 import Instance, TerminationRequest

from mlplat.clock import Clock
from mlplat.cluster._ray.provider import Provider
from mlplat.cluster.router import Router
from mlplat.cluster.scaler import Alive, Ask
from mlplat.cluster.site import Site


class Wired(Provider):
    """The provider over a router that is there."""

    def __init__(self, router: Router, sites: Mapping[str, Site]) -> None:
        NodeProvider.__init__(self, {}, "")
        self.router, self._sites, self._cloud = router, dict(sites), None


class _Config(IConfigReader):  # type: ignore[misc]
    def __init__(self, config: Mapping[str, Any]) -> None:
        with _hushed(logging.ERROR):  # it warns of what it has filled in itself
            self._config = AutoscalingConfig(dict(config), skip_content_hash=True)

    def get_cached_autoscaling_config(self) -> AutoscalingConfig:
        return self._config

    def refresh_cached_autoscaling_config(self) -> None: ...


class _AtOnce:
    """An executor that has done it when `submit` returns."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*arguments))
        return done


class _Drains(InstanceUpdatedSubscriber):  # type: ignore[misc]
    """In place of Ray's RayStopper: `drain` says whether the node of a machine has ended. Where it refuses, because the node is
    not idle any more, the autoscaler hears that the next time."""

    def __init__(self, drain: Callable[[str, bool], bool], errors: list[RayStopError]) -> None:
        self._drain, self._errors = drain, errors
        self.machines: dict[str, str] = {}

    def notify(self, events: Sequence[Any]) -> None:
        for event in events:
            if event.new_instance_status != Instance.RAY_STOP_REQUESTED:
                continue
            idle = event.termination_request.cause == TerminationRequest.Cause.IDLE
            if not self._drain(self.machines[event.termination_request.ray_node_id], idle):
                self._errors.append(RayStopError(im_instance_id=event.instance_id))


class Autoscaler:
    """`drain` is called with a machine, and whether it is for being idle: then a node that is busy refuses (False)."""

    def __init__(
        self, config: Mapping[str, Any], provider: NodeProvider, clock: Clock, drain: Callable[[str, bool], bool]
    ) -> None:
        self._clock = clock
        self._config = _Config(config)
        self._errors: list[RayStopError] = []
        self._drains = _Drains(drain, self._errors)
        self._monitor = CloudResourceMonitor()
        with self._at():
            self._provider = NodeProviderAdapter(provider, self._config, AUTOSCALER_MAX_LAUNCH_BATCH)
            self._provider._main_executor = self._provider._node_launcher_executors = _AtOnce()
            self._kept = InMemoryStorage()
            self._storage = InstanceStorage(cluster_id="simulated", storage=self._kept)
            self._manager = InstanceManager(
                self._storage, [CloudInstanceUpdater(self._provider), self._drains, self._monitor]
            )
            self.scheduler = ResourceDemandScheduler(None)
        self._version = 0
        self.changes = 0
        """Grows with everything that it decides."""

    def tick(self, nodes: Sequence[Alive], asks: Sequence[Ask], pending: Sequence[Ask] = ()) -> None:
        """What Ray's monitor does every five seconds. `asks` is what was requested of the autoscaler, `pending` what tasks and
        actors wait for."""
        state = self.state(nodes, asks, pending)
        errors, self._errors[:] = list(self._errors), []
        with self._at():
            Reconciler.reconcile(
                instance_manager=self._manager,
                scheduler=self.scheduler,
                cloud_provider=self._provider,
                cloud_resource_monitor=self._monitor,
                ray_cluster_resource_state=state,
                non_terminated_cloud_instances=self._provider.get_non_terminated(),
                cloud_provider_errors=self._provider.poll_errors(),
                ray_install_errors=[],
                ray_stop_errors=errors,
                autoscaling_config=self._config.get_cached_autoscaling_config(),
            )
        self._forget()

    def _forget(self) -> None:
        """Ray keeps what has ended for ever, and reads it all at each look; nothing depends on it."""
        if self._kept.get_version() == self.changes:
            return
        known, self.changes = self._storage.get_instances()
        ended = [name for name, one in known.items() if one.status in {Instance.TERMINATED, Instance.ALLOCATION_FAILED}]
        if ended:
            self._storage.batch_delete_instances(ended)

    @contextmanager
    def watched(self) -> Iterator[list[Any]]:
        """What the scheduler is asked, as it comes."""
        seen: list[Any] = []
        schedule = self.scheduler.schedule

        def watch(request: Any) -> Any:
            seen.append(request)
            return schedule(request)

        with patch.object(self.scheduler, "schedule", watch):
            yield seen

    def state(self, nodes: Sequence[Alive], asks: Sequence[Ask], pending: Sequence[Ask] = ()) -> ClusterResourceState:
        """As the GCS says it."""
        self._version += 1
        state = ClusterResourceState(cluster_resource_state_version=self._version)
        for node in nodes:
            state.node_states.append(self._node(node))
        for ask in pending:
            state.pending_resource_requests.add(request=_request(ask), count=ask.count)
        if asks:
            constraint = ClusterResourceConstraint()
            for ask in asks:
                constraint.resource_requests.add(request=_request(ask), count=ask.count)
            state.cluster_resource_constraints.append(constraint)
        return state

    def _node(self, node: Alive) -> NodeState:
        node_id = hashlib.sha224(node.machine.encode()).digest()
        self._drains.machines[node_id.hex()] = node.machine
        idle_ms = round(node.idle_s * 1_000) if node.idle_s is not None else 0
        status = NodeStatus.DEAD if node.dead else NodeStatus.IDLE if node.idle_s is not None else NodeStatus.RUNNING
        return NodeState(
            node_id=node_id,
            instance_id=node.machine,
            ray_node_type_name=node.kind,
            status=status,
            idle_duration_ms=idle_ms,
            node_state_version=self._version,
            total_resources=dict(node.total),
            available_resources=dict(node.free),
            labels=dict(node.labels),
        )

    @contextmanager
    def _at(self) -> Iterator[None]:
        """Ray reads the time from the module: it stands still while it decides."""
        us = self._clock.now_us()
        with (
            _hushed(logging.WARNING),  # it tells every look at every node
            patch.object(time, "time", lambda: us / 1e6),
            patch.object(time, "time_ns", lambda: us * 1_000),
            patch.object(time, "monotonic", lambda: us / 1e6),
        ):
            yield


@contextmanager
def _hushed(least: int) -> Iterator[None]:
    log = logging.getLogger("ray.autoscaler")
    level = log.level
    log.setLevel(least)
    try:
        yield
    finally:
        log.setLevel(level)


def _request(ask: Ask) -> Any:
    selector = [(key, *_operator(value)) for key, value in ask.labels.items()]
    return ResourceRequestUtil.make(dict(ask.each), label_selectors=[selector] if selector else None)


def _operator(value: str) -> tuple[Any, list[str]]:
    """As the GCS reads it."""
    if value.startswith("!in(") and value.endswith(")"):
        return LabelSelectorOperator.LABEL_OPERATOR_NOT_IN, value[4:-1].split(",")
    return LabelSelectorOperator.LABEL_OPERATOR_IN, [value]
