"""On the head: have the cluster grow to what was asked for, before there is work for it; and who works on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

import ray
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state, request_cluster_resources
from ray.core.generated.autoscaler_pb2 import NodeStatus
from ray.exceptions import RpcError

from mlplat.clock import Clock
from mlplat.errors import Refused, Unavailable
from mlplat.jobs._ray.cloud import FLOOR, NAMESPACE, keep, publish, published
from mlplat.jobs.cloud import Cloud

LOOK_S, FIRST_S, ASK_S = 2.0, 60.0, 10.0
RUNNING = NodeStatus.Value("RUNNING")


def gather(
    wanted: Mapping[str, float],
    *,
    wait_s: float,
    clock: Clock,
    wait: Callable[[float], None],
    say: Callable[[str], None],
) -> None:
    """Return when the cluster has so much of each resource in all, own and bought machines together, busy or not. The machines
    stay until the cluster ends. Raises `Unavailable` after `wait_s` seconds."""
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    began_s, known = clock.elapsed_s(), ""
    while (cloud := published()) is None:
        if clock.elapsed_s() - began_s > FIRST_S:
            raise Unavailable(f"its autoscaler has not said after {FIRST_S:g} s what it can buy: see monitor.log")
        wait(LOOK_S)
    keep(machines(cloud, wanted))
    while True:
        there = ray.cluster_resources()
        said = ", ".join(f"{there.get(name, 0):g} of {amount:g} {name}s" for name, amount in wanted.items())
        past_s = clock.elapsed_s() - began_s
        if all(there.get(name, 0.0) >= amount for name, amount in wanted.items()):
            return say(f"{said} are there, after {past_s:.0f} s")
        if said != known:
            say(f"{said} after {past_s:.0f} s")
            known = said
        if past_s > wait_s:
            why = published()
            raise Unavailable(f"only {said} after {past_s:.0f} s{f'; {why.closed}' if why and why.closed else ''}")
        wait(LOOK_S)


def told(cloud: Cloud, *, wait_s: float, clock: Clock, wait: Callable[[float], None]) -> None:
    """Have the queue of jobs of the cluster of this machine know what there is, as soon as that answers."""
    began_s = clock.elapsed_s()
    while True:
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
            return publish(cloud)
        except ConnectionError:
            if clock.elapsed_s() - began_s > wait_s:
                raise Unavailable(f"no Ray answers on this machine after {wait_s:g} s") from None
            wait(LOOK_S)


def machines(cloud: Cloud, wanted: Mapping[str, float]) -> dict[str, int]:
    """How many bought ones are needed beside all own ones, by kind: of the first kinds that have what is missing."""
    found: dict[str, int] = {}
    left = cloud.most
    missing = {n: a - sum(k.total.get(n, 0.0) * k.most for k in cloud.own) for n, a in wanted.items()}
    for kind in cloud.kinds:
        needed = max(
            (ceil(m / kind.total[n]) for n, m in missing.items() if m > 0 and kind.total.get(n, 0.0) > 0), default=0
        )
        count = min(needed, kind.most, left)
        if count:
            found[kind.name] = count
            left -= count
            missing = {n: m - count * kind.total.get(n, 0.0) for n, m in missing.items()}
    if short := [name for name, amount in missing.items() if amount > 0]:
        raise Refused(f"the cluster can never have so many {', '.join(f'{name}s' for name in short)}")
    return found


def works(address: str) -> bool:
    """Whether anybody works on the cluster: a script that runs, or what holds slots. True where the cluster does not say."""
    try:
        client = GcsClient(address=address)
        jobs = client.get_all_job_info(timeout=ASK_S).values()
        if any(not job.is_dead and not job.config.ray_namespace.startswith("_ray_internal") for job in jobs):
            return True
        return any(node.status == RUNNING for node in get_cluster_resource_state(client).node_states)
    except (RpcError, RuntimeError, TimeoutError):
        return True


def let_go(address: str) -> None:
    """What was gathered is needed no more."""
    client = GcsClient(address=address)
    client.internal_kv_del(FLOOR, del_by_prefix=False, namespace=NAMESPACE.encode())
    request_cluster_resources(address, [])
