"""A cluster that is too large to be tried in one piece, tried in shards that know nothing of each other, each in a process.

A look of Ray's autoscaler takes longer than in proportion to the nodes, so that ten thousand of them are tried as a hundred
clusters of a hundred, of the same YAML. Machines, limits and the budget are dealt out like cards. A job goes where the hash of
its id says: so each tenant is in all shards, and has the same rivals there as in the whole. By tenant, a large one would have
more work in its shard than that has machines.

It is an approximation, as a rule on the safe side: shards do not lend each other free machines, and by chance some have more of
the work than of the machines. So work waits longer, and more is bought. That is no theorem: where other machines are free,
other work goes first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any

from mlplat.cluster.budget import Bill
from mlplat.cluster.simulation import simulate as simulated
from mlplat.cluster.spec import NodeType, Spec, parse
from mlplat.cluster.world import Arrival, Outcome, Settings
from mlplat.errors import InvalidInput, Unavailable
from mlplat.jobs.burst import own_nodes
from mlplat.jobs.job import Job, Node
from mlplat.jobs.room import Nodes, units
from mlplat.jobs.rules import Rules

_MONEY, _COUNTS = ("per_hour", "per_day", "per_month"), ("nodes", "gpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A part of a cluster, as the YAML of a cluster, and its part of the work. Unless it `looks_at_data`, the queue decides as if
    egress cost nothing; it is paid all the same."""

    config: Mapping[str, Any]
    arrivals: tuple[Arrival, ...]
    looks_at_data: bool = True


def simulate(
    config: Mapping[str, Any],
    arrivals: Iterable[Arrival],
    *,
    shards: int,
    processes: int,
    looks_at_data: bool = True,
    settings: Settings | None = None,
    done: Callable[[], None] = lambda: None,
) -> Outcome:
    """What becomes of the work on the cluster of a YAML, in so many shards, of which as many at a time are tried as there may be
    `processes`; with one, here. `done` is called after each. Unless it `looks_at_data`, the queue decides as if egress cost
    nothing. The outcome is the same for any number of processes, and that of
    `simulation.simulate` for one shard. Raises as `split` does, and `Unavailable` if a process is killed."""
    given = settings or Settings()
    parts = [replace(part, looks_at_data=looks_at_data) for part in split(config, arrivals, shards)]
    if min(processes, len(parts)) > 1:
        return merged(_in_processes(parts, given, processes, done))
    found = []
    for part in parts:
        found.append(_tried(part, given))
        done()
    return merged(found)


def split(config: Mapping[str, Any], arrivals: Iterable[Arrival], shards: int) -> tuple[Shard, ...]:
    """Each with a part of each type's machines, of the limits and of the work; all add up to what is given, money to a
    ten-thousandth. Raises `InvalidInput` for a job that its shard could never run, with the most shards in which all can."""
    work = tuple(arrivals)
    if shards < 1:
        raise InvalidInput(f"{shards} shards: there must be one at least")
    found = _dealt_out(config, work, shards)
    stuck = _stuck(found) if shards > 1 else None
    if stuck is None:
        return found
    job = stuck.job
    said = f"{job.least} x {', '.join(f'{amount:g} {name}' for name, amount in job.each)}"
    fewer = (number for number in range(shards - 1, 0, -1) if _stuck(_dealt_out(config, work, number)) is None)
    if (most := next(fewer, 0)) > 0:
        raise InvalidInput(
            f"job {job.id!r} asks for {said}, which its shard, one of {shards}, never has. {most} is the most shards in which "
            "every job fits"
        )
    raise InvalidInput(f"job {job.id!r} asks for {said}, which its shard, one of {shards}, never has. {_NO_NUMBER}")


_NO_NUMBER = "No number of shards has room for all jobs: one asks for more than the whole cluster has, or may spend"


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """All as one. A machine that a shard had at its end, and others went on, is paid for until that end."""
    until_us = max(one.until_us for one in outcomes)
    return Outcome(
        began_us={job: us for one in outcomes for job, us in one.began_us.items()},
        ended_us={job: us for one in outcomes for job, us in one.ended_us.items()},
        ran=[ran for one in outcomes for ran in one.ran],
        bought=[call for one in outcomes for call in one.bought],
        bills=[_until(bill, one.until_us, until_us) for one in outcomes for bill in one.bills],
        misplaced=sum(one.misplaced for one in outcomes),
        moved=sum(one.moved for one in outcomes),
        lost_s=sum(one.lost_s for one in outcomes),
        egress=sum(one.egress for one in outcomes),
        ticks=sum(one.ticks for one in outcomes),
        until_us=until_us,
    )


def _until(bill: Bill, ended_us: int, until_us: int) -> Bill:
    return bill if bill.ended_us is not None or ended_us == until_us else replace(bill, ended_us=ended_us)


def _tried(shard: Shard, settings: Settings) -> Outcome:
    cloud = parse(shard.config).cloud
    if not shard.looks_at_data:
        cloud = replace(cloud, egress={})
    with TemporaryDirectory() as folder:
        ledger = f"{folder}/machines.db"
        return simulated(shard.config, shard.arrivals, ledger=ledger, cloud=cloud, settings=settings)


def _in_processes(
    parts: Sequence[Shard], settings: Settings, processes: int, done: Callable[[], None]
) -> list[Outcome]:
    """In the order of the parts. Processes are spawned: a fork of one that has threads may stand still."""
    pool = ProcessPoolExecutor(min(processes, len(parts)), mp_context=get_context("spawn"))
    try:
        futures = [pool.submit(_tried, part, settings) for part in parts]
        for future in as_completed(futures):
            future.result()
            done()
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise Unavailable(
            "a process that simulated a shard was killed, as when the memory is full; take more shards, which are smaller"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


# Dealing out


def _dealt_out(config: Mapping[str, Any], work: Sequence[Arrival], shards: int) -> tuple[Shard, ...]:
    if shards == 1:
        return (Shard(config=config, arrivals=tuple(work)),)
    mine: list[list[Arrival]] = [[] for _ in range(shards)]
    for arrival in work:
        mine[_shard_of(arrival.job, shards)].append(arrival)
    return tuple(
        Shard(config=_config(config, number, shards), arrivals=tuple(part)) for number, part in enumerate(mine)
    )


def _shard_of(job: Job, shards: int) -> int:
    """The same in all processes and versions of Python."""
    return int.from_bytes(hashlib.blake2b(job.id.encode(), digest_size=8).digest()) % shards


def _config(config: Mapping[str, Any], shard: int, shards: int) -> dict[str, Any]:
    """Own machines of all types are dealt in one round, and what may be bought where that stops: then the limits of the whole
    cluster fit those of its types in each shard."""
    given, own = config["available_node_types"], 0
    types = {config["head_node_type"]: given[config["head_node_type"]]}
    for name, kind in given.items():
        if name not in types and "hosts" in kind["node_config"]:
            types[name] = _kind(kind, (shard - own) % shards, shards)
            own += kind["max_workers"]
    seat = (shard - own) % shards
    for name, kind in given.items():
        if name not in types:
            types[name] = _kind(kind, seat, shards)
    budget = config["provider"].get("budget", {})
    return {
        **config,
        "max_workers": _dealt(config["max_workers"], shard, shards),
        "available_node_types": {name: types[name] for name in given},
        "provider": {**config["provider"], "budget": _budget(budget, seat, shards)},
    }


def _kind(given: Mapping[str, Any], seat: int, shards: int) -> dict[str, Any]:
    counts = {
        name: _dealt(given[name], seat, shards)
        for name in ("min_workers", "max_workers")
        if given.get(name) is not None
    }
    node = given["node_config"]
    if "hosts" in node:
        node = {**node, "hosts": node["hosts"][seat::shards]}
    return {**given, **counts, "node_config": node}


def _budget(given: Mapping[str, Any], seat: int, shards: int) -> dict[str, Any]:
    """Money in ten-thousandths; machines and GPUs in whole ones, what is left of a GPU to the first."""
    found = dict(given)
    for name in _MONEY:
        if given.get(name) is not None:
            found[name] = _dealt(units(given[name]), seat, shards) / units(1)
    for name in _COUNTS:
        if given.get(name) is not None:
            whole = int(given[name])
            found[name] = _dealt(whole, seat, shards) + (given[name] - whole if seat == 0 else 0)
    return found


def _dealt(number: int, seat: int, shards: int) -> int:
    """How many of a number of cards the player of a seat has."""
    return len(range(seat, number, shards))


# Fitting


def _stuck(shards: Iterable[Shard]) -> Arrival | None:
    """The first that could never run where it is."""
    for shard in shards:
        if not shard.arrivals:
            continue
        spec, known = parse(shard.config), dict[tuple[str, int], bool]()
        own = own_nodes(spec.cloud, Rules())
        for arrival in shard.arrivals:
            job = arrival.job
            ask = (job.kind, job.least)
            if ask not in known:
                known[ask] = _on_own(own.get(job.pool), job) or _on_bought(spec, job)
            if not known[ask]:
                return arrival
    return None


def _on_own(nodes: Nodes | None, job: Job) -> bool:
    shape = None if nodes is None else nodes.shape(job)
    return nodes is not None and shape is not None and nodes.most(shape) >= job.least


def _on_bought(spec: Spec, job: Job) -> bool:
    """On as few machines as can be, which the budget has room for, for an hour at the least of their prices."""
    budget = spec.budget
    room = min(spec.cloud.most, job.least if budget.nodes is None else min(budget.nodes, job.least))
    kinds = [spec.types[kind.name] for kind in spec.cloud.kinds]
    there = [
        (kind, Node(id=f"{kind.name}#{number}", total=kind.resources, labels=kind.labels))
        for kind in kinds
        for number in range(min(kind.max_workers, room))
    ]
    nodes = Nodes([node for _, node in there])
    shape = nodes.shape(job)
    placed = None if shape is None else nodes.place(nodes.total, shape, job.least)
    if placed is None or len(placed) > room:
        return False
    kind_of: dict[str, NodeType] = {node.id: kind for kind, node in there}
    bought = [kind_of[name] for name, _ in placed]
    price = sum(min(offer.price for offer in kind.offers) for kind in bought)
    limits = [limit for name in _MONEY if (limit := getattr(budget, name)) is not None]
    gpus = sum(kind.gpus for kind in bought)
    return price <= min(limits, default=price) and (budget.gpus is None or gpus <= budget.gpus)
