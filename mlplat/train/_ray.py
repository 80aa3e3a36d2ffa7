"""Training on several workers with Ray Train: the gang over torch.distributed, and the run itself."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray._private.state import available_resources_per_node, state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ScalingDecision
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from torch import nn

from mlplat import errors
from mlplat.clock import SystemClock
from mlplat.config import carried, environment, set_environment
from mlplat.errors import MlplatError, Unavailable, UserCodeError
from mlplat.jobs.demand import Demand
from mlplat.train import parallel
from mlplat.train.faults import less_memory, line_of
from mlplat.train.fit import fit
from mlplat.train.progress import Progress, Silent
from mlplat.train.relay import Follower, ToFile
from mlplat.train.session import learn
from mlplat.train.settings import Parallel, TrainSettings
from mlplat.train.work import Learned, Work, Yielded

ABORT_S = 10.0
RESIZE_S = 60.0
WAIT_S = 0.5
STOP_FILE = "stop"
_NODE = re.compile(r"Memory on the node \(IP: ([^,]+), [^)]*\) was ([\d.]+ ?GB used / [\d.]+ ?GB limit)")
_PARTNER_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")

# Ray Train's own: a shorter poll ends a run sooner; the others start actors and reporters that one machine does not
# need.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Workers:
    """The gang of a Ray Train worker."""

    def __init__(self) -> None:
        context = get_context()
        self.rank: int = context.get_world_rank()
        self.size: int = context.get_world_size()
        self.local_rank: int = context.get_local_rank()
        self.local_size: int = context.get_local_world_size()
        self.device: torch.device = get_device()

    def wrap(self, module: nn.Module, *, how: Parallel, half: bool) -> parallel.Alone:
        kind: type[parallel.Alone]
        if how == "fsdp":
            kind = parallel.Named if self.size == 1 else parallel.Sharded
        else:
            kind = parallel.Alone if self.size == 1 else parallel.Replicated
        return kind(module, self.device, half=half)

    def share(self, numbers: Sequence[float]) -> list[float]:
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        found: list[float] = shared.tolist()
        return found

    def gather(self, rows: torch.Tensor) -> list[torch.Tensor]:
        if self.size == 1:
            return [rows.cpu()]
        mine = rows.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [one.cpu() for one in found]


class Backend(_TorchBackend):  # type: ignore[misc]
    """Ray Train's. Of the workers that it says goodbye to some may be dead, and it knows that; but where Ray killed one for its
    memory the error is of another class, which would end the run."""

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        with contextlib.suppress(OutOfMemoryError):
            super().on_shutdown(worker_group, backend_config)


@dataclass
class Torch(TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[Backend]:
        return Backend


class FailurePolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray Train's, but what the user's code raised it would raise again: only lost workers are worth another try. One that Ray
    killed for its memory while workers were starting is lost too, and no error of Ray Train's own."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        error = training_failed_error
        if isinstance(error, WorkerGroupError) and _told(error) is not None:
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


def learn_on_workers(work: Work, demand: Demand, progress: Progress, stop: Callable[[], bool]) -> Learned | Yielded:
    """Run `learn` on the workers that `demand` asks for; lost ones are replaced, and the run goes on from its newest
    checkpoint.

    Raises what `learn` raises, `UserCodeError` for anything else that a worker raised, `Unavailable` if workers were lost
    more than `settings.recovery.failures` times.
    """
    set_environment(_ENVIRONMENT)
    told, asked, rays = (work.folder / name for name in ("progress.jsonl", STOP_FILE, "ray"))
    told.write_text("")
    asked.unlink(missing_ok=True)
    shutil.rmtree(rays, ignore_errors=True)
    progress.note(f"starting {_described(demand)}")
    elastic = demand.least < demand.count
    trainer = Trainer(
        _worker,
        # By reference: Ray Train's controller would else unpack it, and import the user's code without the workers' environment.
        train_loop_config={"work": ray.put(work), "folder": work.folder, "told": told},
        torch_config=Torch(),
        scaling_config=ScalingConfig(
            num_workers=(demand.least, demand.count) if elastic else demand.count,
            use_gpu="GPU" in dict(demand.resources),
            resources_per_worker=dict(demand.resources),
            label_selector=dict(demand.labels) or None,
            elastic_resize_monitor_interval_s=RESIZE_S,
        ),
        run_config=RunConfig(
            name=work.folder.name,
            storage_path=str(rays),
            worker_runtime_env={"env_vars": carried(environment())},
            failure_config=FailureConfig(max_failures=work.settings.recovery.failures),
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
        raise _of_user(error, settings) from None
    except (TrainingFailedError, RayError) as error:
        failure = error.controller_failure if isinstance(error, ControllerError) else error
        if isinstance(failure, OutOfMemoryError):  # of the controller, or while workers were starting
            raise _killed_for_memory(failure, settings) from None
        raise Unavailable(f"Ray Train could not run the workers: {_first_line(failure)}") from error
    learned: Learned | Yielded = result.return_value
    return learned


def _worker(config: dict[str, Any]) -> Learned | Yielded | None:
    gang, asked = Workers(), config["folder"] / STOP_FILE
    clock = SystemClock()
    progress: Progress = ToFile(config["told"], clock) if gang.rank == 0 else Silent()
    try:
        work, stop = ray.get(config["work"]), asked.exists
        estimates = work.science.estimator is not None
        learned = fit(work, progress, clock, stop) if estimates else learn(work, gang, progress, clock, stop)
    except Exception as error:
        raise ToldError(json.dumps(_description(error))) from error
    finally:
        progress.end()
    return learned if gang.rank == 0 else None


class ToldError(Exception):
    """An error as JSON text, because a worker's exception reaches the driver as text."""


def _description(error: Exception) -> dict[str, str]:
    where, line = line_of(error)
    return {"kind": type(error).__name__, "message": str(error), "where": where, "line": line}


def _told(error: WorkerGroupError) -> tuple[int, dict[str, str]] | None:
    """The first worker with an error of its own, and that. The error of one which only lost its partner tells nothing."""
    for rank, failure in sorted(error.worker_failures.items()):
        text = str(failure)
        start = text.rfind('{"kind"')
        if start >= 0:
            description = json.JSONDecoder().raw_decode(text[start:])[0]
            ours = _kind(description) is not None
            if ours or not any(name in description["message"].lower() for name in _PARTNER_LOST):
                return rank, description
    return None


def _kind(description: dict[str, str]) -> type[MlplatError] | None:
    kind = getattr(errors, description["kind"], None)
    return kind if isinstance(kind, type) and issubclass(kind, MlplatError) else None


def _of_user(error: WorkerGroupError, settings: TrainSettings) -> MlplatError:
    told = _told(error)
    if told is None:
        for failure in error.worker_failures.values():
            if isinstance(failure, WorkerHealthCheckFailedError):
                failure = failure.health_check_failure
            if isinstance(failure, OutOfMemoryError):
                return _killed_for_memory(failure, settings)
        lost = ", ".join(str(rank) for rank in sorted(error.worker_failures))
        why = next((_first_line(failure) for failure in error.worker_failures.values()), _first_line(error))
        return Unavailable(
            f"workers were lost (rank {lost}): {why}. The same call goes on from the run's newest checkpoint."
        )
    rank, first = told
    if (kind := _kind(first)) is not None:
        return kind(first["message"])
    return UserCodeError(
        f"worker {rank} raised {first['kind']}: {first['message']}\n  at {first['where']}: {first['line']}"
    )


def _killed_for_memory(error: OutOfMemoryError, settings: TrainSettings) -> Unavailable:
    """Ray's text is a page, with all processes of the node; its first line says what there was."""
    found = _NODE.search(str(error))
    node = f"the node {found[1]} ran low on memory ({found[2]})" if found else "their node ran low on memory"
    return Unavailable(
        f"workers were lost: Ray killed them because {node}. What takes less: {less_memory(settings)}. Other work on that node "
        "counts too. Such a change begins a new run; the same call goes on from the run's newest checkpoint."
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
