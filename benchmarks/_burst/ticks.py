"""What a look of the autoscaler takes with our provider, beside Ray's scheduling alone."""

from __future__ import annotations

import copy
from statistics import median
from time import perf_counter
from unittest.mock import patch

from ray.autoscaler.v2.instance_manager import config as ray_config

from benchmarks._burst.simulated import config
from benchmarks._figures import Figures, Scene
from mlplat.cluster._ray.autoscaler import Autoscaler, Wired
from mlplat.cluster._ray.provider import head_tags
from mlplat.cluster.hosts import Hosts
from mlplat.cluster.ledger import MachineLedger
from mlplat.cluster.router import OWN, Router
from mlplat.cluster.scaler import Alive, Ask, head_of
from mlplat.cluster.spec import parse
from mlplat.cluster.world import Machines, SetClock


def tick(scene: Scene) -> Figures:
    """Nodes that all work, and demands that wait: one look of the whole autoscaler, with our provider and its ledger, beside one
    call of Ray's scheduler on the same request."""
    nodes, pending = scene.size(1_000, 20), scene.size(10_000, 100)
    given = config({}, str(scene.folder / "machines.db"))
    given["max_workers"] = nodes + 2
    given["provider"]["disable_node_updaters"] = True
    given["available_node_types"]["cloud.gpu"]["max_workers"] = nodes
    spec = parse(given)
    clock, cloud = SetClock(), Machines("cloud")
    hosts = Hosts({"h0": head_tags({"host": "h0", "type": "head"})}, lambda host: True, clock)
    ledger = MachineLedger(spec.ledger, spec.cluster)
    sites = {"cloud": cloud, OWN: hosts}
    launches = iter(range(1_000_000))
    router = Router(spec.cluster, spec.budget, sites, ledger, clock, lambda: str(next(launches)), lambda said: None)
    provider = Wired(router, sites)
    scaler = Autoscaler(given, provider, clock, lambda machine, idle: True)
    head = head_of("h0", "head")
    want = [Ask(each={"CPU": 8.0, "GPU": 1.0}, labels={"site": "cloud"}, count=nodes)]
    shown = [head]
    with patch.object(ray_config, "AUTOSCALER_MAX_CONCURRENT_LAUNCHES", nodes):  # ten, which would take minutes
        while len(shown) < nodes + 3:
            scaler.tick(shown, want)
            want = []
            clock.us += 5_000_000
            there = {**dict.fromkeys(cloud.there, "cloud.gpu"), **dict.fromkeys(("h1", "h2"), "onprem.gpu")}
            shown = [head, *(_busy(name, kind, spec.types[kind].labels) for name, kind in there.items())]
    asks = [Ask(each={"CPU": 1.0, "GPU": 1.0}, labels={"site": "onprem"}, count=pending)]
    whole, alone = [], []
    with scaler.watched() as requests:
        for _ in range(scene.size(5, 1)):
            began = perf_counter()
            scaler.tick(shown, (), pending=asks)
            whole.append(perf_counter() - began)
            request = copy.deepcopy(requests[-1])
            began = perf_counter()
            scaler.scheduler.schedule(request)
            alone.append(perf_counter() - began)
            clock.us += 5_000_000
    began = perf_counter()
    for name in provider.non_terminated_nodes({}):
        provider.node_tags(name)
        provider.is_running(name)
    own_s = perf_counter() - began
    ledger.close()
    note = f"{nodes} nodes, {pending} demands; all machines asked of the provider: {own_s:.3f} s; the rest is Ray's reconciler"
    return Figures(ours=median(whole), reference=median(alone), note=note)


def _busy(name: str, kind: str, labels: dict[str, str] | object) -> Alive:
    total = {"CPU": 32.0, "GPU": 4.0} if kind == "onprem.gpu" else {"CPU": 8.0, "GPU": 1.0}
    return Alive(machine=name, kind=kind, total=total, free=dict.fromkeys(total, 0.0), labels=dict(labels))  # type: ignore[call-overload]
