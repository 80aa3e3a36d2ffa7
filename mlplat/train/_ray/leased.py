"""Ray Train's workers in slots that are there already: the lease's placement group, which outlives a group of workers."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.util.placement_group import placement_group_table

from mlplat.errors import Unavailable
from mlplat.jobs._ray.world import group_of


class LeaseGone(Unavailable):
    """The slots were taken away: there is nothing to start workers on."""


class Kept(DefaultPlacementGroupHandle):  # type: ignore[misc]
    def shutdown(self) -> None:
        """It is the queue's to remove."""


class Workers(WorkerGroup):  # type: ignore[misc]
    group_id: str

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Kept:
        group = group_of(self.group_id)
        if placement_group_table(group).get("state") != "CREATED":
            raise LeaseGone("the slots of this training were given to another")
        return Kept(group)


class InLease(ControllerCallback):  # type: ignore[misc]
    """Ray Train has no setting for it (2.60): its controller makes a placement group for each group of workers."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id

    def after_controller_start(self, train_run_context: Any) -> None:
        Workers.group_id = self._group_id
        TrainController.worker_group_cls = Workers
