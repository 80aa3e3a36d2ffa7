"""What Ray Train is told to do with lost workers, and with more or fewer of them."""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ScalingDecision
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from mlplat.train._ray.failures import told
from mlplat.train._ray.leased import LeaseGone

WAIT_S = 0.5


class FailurePolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray Train's, but what the user's code raised it would raise again: only lost workers are worth another try. One that Ray
    killed for its memory while workers were starting is lost too, and no error of Ray Train's own."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        error = training_failed_error
        if isinstance(error, WorkerGroupError) and told(error) is not None:
            return FailureDecision.RAISE
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, LeaseGone):
            return FailureDecision.RAISE
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, OutOfMemoryError):
            error = WorkerGroupError(str(error), {})
        return super().make_decision(error)


class ElasticPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray Train's divides what the cluster has among its runs, and knows of nothing else there: where an actor holds a core it
    would ask for this core, and wait for it for ever. Here a run gets what is free as well, on nodes with its labels.
    """

    _held = 0

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            threading.Event().wait(WAIT_S)  # else its controller asks again at once, and keeps a core busy
        else:
            self._held = 0  # if these cannot be had they hold nothing; once they run it is said below
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        self._held = worker_group_state.num_workers  # a group that is to be replaced gives its cores back
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        share: int = super()._count_possible_workers(reserved_resources)
        wanted = (self.scaling_config.label_selector or {}).items()
        suited = [node["NodeID"] for node in ray.nodes() if node["Alive"] and wanted <= node["Labels"].items()]
        free = available_resources_per_node()
        each = self.scaling_config._resources_per_worker_not_none
        fit = (
            min(int(free.get(node, {}).get(name, 0.0) // amount) for name, amount in each.items()) for node in suited
        )
        return min(share, self._held + sum(fit))
