"""A run of training on Ray Train's workers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from mlplat.config import carried, environment, set_environment
from mlplat.errors import Unavailable
from mlplat.jobs.demand import Demand
from mlplat.train._ray.failures import first_line, killed_for_memory, of_user
from mlplat.train._ray.leased import InLease
from mlplat.train._ray.policies import ElasticPolicy, FailurePolicy
from mlplat.train._ray.worker import STOP_FILE, Torch, work_on
from mlplat.train.progress import Progress
from mlplat.train.relay import Follower
from mlplat.train.settings import TrainSettings
from mlplat.train.work import Learned, Work, Yielded


class Slots(Protocol):
    """So many workers in a placement group that is there."""

    @property
    def size(self) -> int: ...

    @property
    def group_id(self) -> str: ...


ABORT_S = 10.0
RESIZE_S = 60.0

# Ray Train's own: a shorter poll ends a run sooner; the others start actors and reporters that one machine does not
# need.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's, which takes over Ctrl-C for good and then ends the process; here it stays Python's, and frees the
    workers."""

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def _create_default_callbacks(self) -> list[Any]:
        # The cleaner costs a process with torch in it at every start, and works only where a dashboard answers. What it
        # guards against, a controller that dies alone, ends with this driver at the latest.
        callbacks: list[Any] = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["failure_policy"] = FailurePolicy(self.run_config.failure_config)
        if self.scaling_config.elasticity_enabled:
            arguments["scaling_policy"] = ElasticPolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**arguments)

    def abort(self) -> None:
        if self._controller is None:
            return
        try:
            ray.get(self._controller.abort.remote(), timeout=ABORT_S)
        except RayActorError:
            pass  # how it answers: by ending
        except GetTimeoutError:  # it waits for room for its workers, and hears nothing
            ray.kill(self._controller)
            _forget_groups(self._controller._actor_id.binary())


def _forget_groups(creator: bytes) -> None:
    """What an actor asked for and did not get stays asked for after its death, until the driver ends."""
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(row)
        if group.creator_actor_id == creator:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def learn_on_workers(
    work: Work, demand: Demand, progress: Progress, stop: Callable[[], bool], lease: Slots | None = None
) -> Learned | Yielded:
    """Run `learn` on the workers that `demand` asks for, in the slots of `lease` if there is one; lost ones are replaced, and the
    run goes on from its newest checkpoint.

    Raises what `learn` raises, `UserCodeError` for anything else that a worker raised, `Unavailable` if workers were lost
    more than `settings.recovery.failures` times.
    """
    set_environment(_ENVIRONMENT)
    told, asked, rays = (work.folder / name for name in ("progress.jsonl", STOP_FILE, "ray"))
    told.write_text("")
    asked.unlink(missing_ok=True)
    shutil.rmtree(rays, ignore_errors=True)
    if lease is not None:
        demand = replace(demand, least=lease.size, count=lease.size)
    progress.note(f"starting {_described(demand)}")
    elastic = demand.least < demand.count
    trainer = Trainer(
        work_on,
        # By reference: Ray Train's controller would else unpack it, and import the user's code without the workers' environment.
        train_loop_config={"work": ray.put(work), "folder": work.folder, "told": told},
        torch_config=Torch(),
        scaling_config=ScalingConfig(
            num_workers=(demand.least, demand.count) if elastic else demand.count,
            use_gpu="GPU" in dict(demand.resources),
            resources_per_worker=dict(demand.resources),
            label_selector=dict(demand.labels) or None if lease is None else None,
            elastic_resize_monitor_interval_s=RESIZE_S,
        ),
        run_config=RunConfig(
            name=work.folder.name,
            storage_path=str(rays),
            worker_runtime_env={"env_vars": carried(environment())},
            failure_config=FailureConfig(max_failures=work.settings.recovery.failures),
            callbacks=[] if lease is None else [InLease(lease.group_id)],
        ),
    )
    follower = Follower(told, progress, every=lambda: asked.touch() if follower.failed or stop() else None)
    try:
        return _fit(trainer, work.settings)
    finally:
        with contextlib.ExitStack() as stack:
            for left in (told, asked):
                stack.callback(left.unlink, missing_ok=True)
            stack.callback(shutil.rmtree, rays, ignore_errors=True)
            follower.stop()


def _described(demand: Demand) -> str:
    workers = str(demand.count) if demand.least == demand.count else f"{demand.least} to {demand.count}"
    return f"{workers} worker{'' if demand.count == 1 else 's'} for {demand}"


def _fit(trainer: Trainer, settings: TrainSettings) -> Learned | Yielded:
    try:
        result = trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except WorkerGroupError as error:
        raise of_user(error, settings) from None
    except (TrainingFailedError, RayError) as error:
        failure = error.controller_failure if isinstance(error, ControllerError) else error
        if isinstance(failure, OutOfMemoryError):  # of the controller, or while workers were starting
            raise killed_for_memory(failure, settings) from None
        raise Unavailable(f"Ray Train could not run the workers: {first_line(failure)}") from error
    learned: Learned | Yielded = result.return_value
    return learned
