"""A model version in processes of its own: one Serve application for each, which no caller reaches but the ingress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import orjson
from ray import serve

from mlplat.jobs._ray.cloud import own_first
from mlplat.jobs.demand import Demand
from mlplat.serve._ray.settings import APPLICATION, QUIET
from mlplat.serve.backbone import Backbone, Coalesced, Columns, Outputs
from mlplat.serve.load import ready
from mlplat.serve.state import Member

IDLE_S = 60.0
"""A replica that has had nothing to do for so long ends, where there may be fewer."""
_NAME = "backbone"


@serve.deployment(name=_NAME, max_ongoing_requests=4, health_check_period_s=5, logging_config=QUIET)
class Replica:
    """Answers batches as JSON: what is in it can do nothing but be data."""

    def __init__(self, path: str, digest: str) -> None:
        self._model = ready(path, digest)

    async def predict(self, body: bytes) -> bytes:
        outputs = self._model.predict(orjson.loads(body))
        return orjson.dumps({name: values.tolist() for name, values in outputs.items()})


@serve.deployment(name="root", ray_actor_options={"num_cpus": 0}, logging_config=QUIET)
class Root:
    """Every application has a deployment that its proxy knows, and which is slow to come and go: not this replica."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone


def application(name: str, member: Member) -> str:
    """Another one for another demand: processes are never changed in place."""
    demand = hashlib.blake2b(orjson.dumps(member.compute, option=orjson.OPT_SORT_KEYS), digest_size=4).hexdigest()
    return f"{APPLICATION}-{name}-{member.version}-{member.digest[:8]}-{demand}"


def start(name: str, member: Member, *, owned: bool) -> None:
    """Returns when it is warm. On a machine of our own it asks for no core: it would keep a training that wants all of them
    waiting for ever."""
    assert member.compute is not None
    demand = Demand.parse(member.compute, idle=True)
    options: dict[str, Any] = {"ray_actor_options": resources(demand, owned=owned)}
    if demand.least < demand.count:
        options["autoscaling_config"] = {
            "min_replicas": demand.least,
            "initial_replicas": max(1, demand.least),  # one at least shows that it can be loaded
            "max_replicas": demand.count,
            "target_ongoing_requests": 1,
            "metrics_interval_s": 1,  # Ray's 10 s, averaged over 30, are too slow for a queue of people
            "look_back_period_s": 3,
            "upscale_delay_s": 2,
            "downscale_delay_s": IDLE_S,
        }
    else:
        options["num_replicas"] = demand.count
    replica = Replica.options(**options).bind(member.path, member.digest)  # type: ignore[attr-defined]
    serve.run(Root.bind(replica), name=application(name, member), route_prefix=None)  # type: ignore[attr-defined]


def stop(name: str, member: Member) -> None:
    serve.delete(application(name, member))


class Replicas(Coalesced):
    """The replicas of a version, from within the ingress. Where their number changes there is one call more than there are: one
    that waits for a replica is what makes Serve start another."""

    def __init__(self, app: str, demand: Demand) -> None:
        super().__init__(_calling(app), calls=demand.count)
        self.app, self._most = app, demand.count
        self.scales = demand.least < demand.count
        if self.scales:
            self.follow(max(1, demand.least))

    def follow(self, running: int) -> None:
        self.calls = min(running + 1, self._most)


def connect(name: str, member: Member) -> Backbone:
    assert member.compute is not None
    return Replicas(application(name, member), Demand.parse(member.compute, idle=True))


def running() -> dict[str, int]:
    """How many replicas each version has, by its application. Blocks."""
    found = {}
    for app, status in serve.status().applications.items():
        deployment = status.deployments.get(_NAME)
        found[app] = 0 if deployment is None else deployment.replica_states.get("RUNNING", 0)
    return found


def _calling(app: str) -> Callable[[Columns, int], Any]:
    @cache
    def method() -> Any:
        """Made once, and in the loop: its router is to run there."""
        return serve.get_deployment_handle(_NAME, app_name=app).predict

    async def call(columns: Columns, rows: int) -> Outputs:
        answer: Mapping[str, list[Any]] = orjson.loads(await method().remote(orjson.dumps(columns)))
        return answer

    return call


def resources(demand: Demand, *, owned: bool) -> dict[str, Any]:
    """What a process of it asks Ray for, on own machines first; `owned`: no core."""
    wanted = dict(demand.resources)
    cpus, gpus = wanted.pop("CPU", 0.0), wanted.pop("GPU", 0.0)
    options: dict[str, Any] = {"num_cpus": 0.0 if owned else cpus, "num_gpus": gpus}
    if wanted:
        options["resources"] = wanted
    return options | own_first(dict(demand.labels))
