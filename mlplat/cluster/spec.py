"""What the YAML of a cluster says of machines: which are there, which may be bought, and for how much."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlplat._ray import flags
from mlplat.cluster import tls
from mlplat.errors import InvalidInput
from mlplat.jobs.cloud import BOUGHT, SITE, Cloud, Kind
from mlplat.jobs.egress import REGION

ONPREM = "onprem"
Path = tuple[str | int, ...]
"""Where in the YAML: the keys from the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One way to buy a machine. `price` is per hour, in whatever money the budget is in; `node` is what its site is asked for."""

    site: str
    price: float
    name: str = ""
    spot: bool = False
    node: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """Own machines are `hosts`; of others there are `offers`, tried in this order."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    offers: tuple[Offer, ...] = ()
    max_workers: int = 0

    @property
    def gpus(self) -> float:
        return float(self.resources.get("GPU", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent on bought machines, per hour, day and month of UTC, and how many of them and of their GPUs there may be
    at a time. None: no limit."""

    per_hour: float | None = None
    per_day: float | None = None
    per_month: float | None = None
    nodes: int | None = None
    gpus: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """`ledger` is where machines are written down: a path on the head, or a database's URL. `cloud` is what jobs may have of the
    machines that are bought."""

    cluster: str
    head: str
    types: Mapping[str, NodeType]
    budget: Budget
    ledger: str
    cloud: Cloud


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong at a place of the YAML."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path)) or 'the file'}: {self.message}"


def parse(config: Mapping[str, Any]) -> Spec:
    """Raises `InvalidInput` with everything that is wrong."""
    found = problems(config)
    if found:
        raise InvalidInput("\n".join(str(problem) for problem in found))
    provider = config["provider"]
    return Spec(
        cluster=config["cluster_name"],
        head=config["head_node_type"],
        types={name: node_type(name, given) for name, given in config["available_node_types"].items()},
        budget=Budget(**provider.get("budget", {})),
        ledger=provider["ledger"],
        cloud=_cloud(config),
    )


def _cloud(config: Mapping[str, Any]) -> Cloud:
    types = {name: node_type(name, given) for name, given in config["available_node_types"].items()}
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    kinds = {
        site: tuple(
            Kind(
                name=kind.name,
                total=kind.resources,
                labels=kind.labels,
                most=kind.max_workers,
                price=kind.offers[0].price if kind.offers else 0.0,  # they are tried in this order
            )
            for kind in workers
            if bool(kind.offers) == (site == BOUGHT)
        )
        for site in (ONPREM, BOUGHT)
    }
    most = config["max_workers"] - sum(kind.most for kind in kinds[ONPREM])
    provider = config["provider"]
    return Cloud(
        kinds=kinds[BOUGHT],
        own=kinds[ONPREM],
        most=max(0, most),
        egress=provider.get("egress", {}),
        **provider.get("burst", {}),
    )


def node_type(name: str, given: Mapping[str, Any]) -> NodeType:
    node = given.get("node_config", {})
    return NodeType(
        name=name,
        resources=dict(given.get("resources", {})),
        labels=dict(given.get("labels", {})),
        hosts=tuple(node.get("hosts", ())),
        offers=offers(node),
        max_workers=given.get("max_workers", 0),
    )


def offers(node_config: Mapping[str, Any]) -> tuple[Offer, ...]:
    return tuple(Offer(**given) for given in node_config.get("offers", ()))


def problems(config: Any, running: Mapping[str, int] | None = None) -> list[Problem]:
    """Everything that is wrong with it, in the order of the file. `running` is how many nodes there are now, by type: a limit
    below that would have Ray kill some, whatever they do."""
    if not isinstance(config, Mapping):
        return [Problem(path=(), message="is not a YAML mapping")]
    found = [*_of_file(config), *_of_tls(config)]
    types = config.get("available_node_types")
    provider = config.get("provider") if isinstance(config.get("provider"), Mapping) else {}
    assert isinstance(provider, Mapping)
    if isinstance(types, Mapping):
        sites = provider.get("sites", {})
        for name, given in types.items():
            found += _of_type(config, ("available_node_types", name), given, sites)
            most = given.get("max_workers") if isinstance(given, Mapping) else None
            there = (running or {}).get(name, 0)
            if isinstance(most, int) and most < there:
                found.append(
                    Problem(
                        path=("available_node_types", name, "max_workers"),
                        message=f"is {most}, and {there} run: Ray would kill some in the middle of their work. Let them end "
                        "first, or drain them",
                    )
                )
    total, most = sum((running or {}).values()), config.get("max_workers")
    if isinstance(most, int) and most < total:
        found.append(Problem(path=("max_workers",), message=f"is {most}, and {total} run: Ray would kill some"))
    return found


def _of_file(config: Mapping[str, Any]) -> Iterator[Problem]:
    for key in ("cluster_name", "provider", "head_node_type", "available_node_types", "max_workers"):
        if key not in config:
            yield Problem(path=(), message=f"{key} is missing")
    for key in _COMMANDS:
        if key not in config:
            yield Problem(
                path=(), message=f"{key} is missing: Ray takes no default with an external provider; give [] at least"
            )
    provider = config.get("provider", {})
    if not isinstance(provider, Mapping):
        yield Problem(path=("provider",), message="must be a mapping")
        return
    if provider.get("type") != "external" or provider.get("module") not in _MODULES:
        yield Problem(path=("provider",), message="must have type: external and module: mlplat.cluster.Provider")
    if not isinstance(provider.get("ledger"), str):
        yield Problem(path=("provider",), message="ledger is missing: a path on the head, or the URL of a database")
    yield from _of_budget(provider.get("budget", {}))
    yield from _of_burst(provider.get("burst", {}))
    yield from _of_metrics(provider.get("metrics", {}))
    yield from _of_egress(provider.get("egress", {}), config.get("available_node_types"))
    yield from _numbers(config, (), {"max_workers": int, "idle_timeout_minutes": float, "upscaling_speed": float})
    if not config.get("upscaling_speed"):
        yield Problem(
            path=("upscaling_speed",), message="is 0, or missing: Ray would start one node of a type at a time"
        )
    types = config.get("available_node_types")
    if not isinstance(types, Mapping):
        if types is not None:
            yield Problem(path=("available_node_types",), message="must be a mapping")
        return
    head = config.get("head_node_type")
    if head is not None and head not in types:
        yield Problem(path=("head_node_type",), message=f"{head!r} is none of {', '.join(types)}")
    elif head is not None and isinstance(types[head], Mapping) and types[head].get("max_workers", 0) != 0:
        yield Problem(
            path=("available_node_types", head, "max_workers"),
            message="must be 0: there is one head, and it is no worker",
        )


def _of_tls(config: Mapping[str, Any]) -> Iterator[Problem]:
    """A process without TLS cannot talk to one that has it, and waits for minutes."""
    found: list[tuple[Path, str]] = [
        ((key, at), str(command))
        for key in tls.STARTS
        for at, command in enumerate(config.get(key) or ())
        if re.search(r"\b(ray start|mlplat cluster guard)\b", str(command))
    ]
    if not any(tls.uses(command) for _, command in found):
        return
    for path, command in found:
        if not tls.uses(command):
            said = f"has no {flags.USE_TLS}=1, and others have it: none of them could talk to it"
            yield Problem(path=path, message=said)
            continue
        named = tls.paths(command)
        for name in flags.TLS_FILES:
            if name not in named:
                yield Problem(path=path, message=f"has {flags.USE_TLS}=1, and no {name}=...")
            elif tls.mount(named[name], config.get("file_mounts") or {}) is None:
                said = f"{name} is {named[name]}, which no file_mounts bring to the machine"
                yield Problem(path=path, message=said)


def _of_budget(given: Any) -> Iterator[Problem]:
    path: Path = ("provider", "budget")
    if not isinstance(given, Mapping):
        yield Problem(path=path, message="must be a mapping")
        return
    known = {"per_hour": float, "per_day": float, "per_month": float, "nodes": int, "gpus": float}
    for name in given:
        if name not in known:
            yield Problem(path=(*path, name), message=f"is not known; there are {', '.join(known)}")
    yield from _numbers(given, path, known)


def _of_burst(given: Any) -> Iterator[Problem]:
    path: Path = ("provider", "burst")
    if not isinstance(given, Mapping):
        yield Problem(path=path, message="must be a mapping")
        return
    for name in given:
        if name not in _BURST:
            yield Problem(path=(*path, name), message=f"is not known; there are {', '.join(_BURST)}")
    if not isinstance(given.get("back", True), bool):
        yield Problem(path=(*path, "back"), message=f"is {given['back']!r}, and must be true or false")
    yield from _numbers(given, path, {"wait_s": float, "stay_s": float})


def _of_metrics(given: Any) -> Iterator[Problem]:
    path: Path = ("provider", "metrics")
    if not isinstance(given, Mapping) or given.keys() - {"port", "host"} or (given and "port" not in given):
        yield Problem(path=path, message="must be a mapping with port, and host (default: 127.0.0.1)")
        return
    yield from _numbers(given, path, {"port": int})


def _of_egress(given: Any, types: Any) -> Iterator[Problem]:
    path: Path = ("provider", "egress")
    if not isinstance(given, Mapping):
        yield Problem(path=path, message="must be a mapping: what a GB costs that leaves a place, as in onprem: 0.02")
        return
    yield from _numbers(given, path, dict.fromkeys(given, float))
    for place in given:
        if given[place] is None or not isinstance(place, str):
            yield Problem(
                path=(*path, place), message="must be the name of a place with what a GB costs that leaves it"
            )
    for name, kind in types.items() if given and isinstance(types, Mapping) else ():
        labels = kind.get("labels") if isinstance(kind, Mapping) else None
        region = labels.get(REGION) if isinstance(labels, Mapping) else None
        if region is not None and region not in given:
            yield Problem(
                path=("available_node_types", name, "labels", REGION),
                message=f"{region!r} is none of provider.egress: {', '.join(map(str, given))}",
            )


def _of_type(config: Mapping[str, Any], path: Path, given: Any, sites: Any) -> Iterator[Problem]:
    if not isinstance(given, Mapping):
        yield Problem(path=path, message="must be a mapping")
        return
    for key in ("resources", "node_config"):
        if not isinstance(given.get(key), Mapping):
            yield Problem(path=path, message=f"{key} is missing")
    yield from _numbers(given, path, {"min_workers": int, "max_workers": int, "idle_timeout_s": float})
    if path[-1] == config.get("head_node_type"):
        if isinstance(given.get("node_config"), Mapping) and "offers" in given["node_config"]:
            yield from _of_offers((*path, "node_config", "offers"), given["node_config"]["offers"], sites)
        return
    smallest, most = given.get("min_workers", 0), given.get("max_workers")
    if most is None:
        yield Problem(path=path, message="max_workers is missing")
    elif isinstance(smallest, int) and isinstance(most, int) and smallest > most:
        yield Problem(path=(*path, "min_workers"), message=f"is {smallest}, more than max_workers, {most}")
    node = given.get("node_config")
    if not isinstance(node, Mapping):
        return
    hosts, bought = node.get("hosts"), node.get("offers")
    if (hosts is None) == (bought is None):
        yield Problem(path=(*path, "node_config"), message="must have hosts (own machines) or offers (bought ones)")
        return
    site = ONPREM if bought is None else BOUGHT
    labels = given.get("labels")
    if not isinstance(labels, Mapping) or labels.get(SITE) != site:
        yield Problem(path=path, message=f"labels must have {SITE}: {site}, by which work is sent there")
    if bought is None:
        yield from _of_hosts(path, hosts, most)
    else:
        yield from _of_offers((*path, "node_config", "offers"), bought, sites)
        if given.get("idle_timeout_s") is None and config.get("idle_timeout_minutes") is None:
            yield Problem(
                path=path,
                message="idle_timeout_s is missing, and so is idle_timeout_minutes: Ray would never give it back",
            )


def _of_hosts(path: Path, hosts: Any, most: Any) -> Iterator[Problem]:
    place = (*path, "node_config", "hosts")
    if not isinstance(hosts, Sequence) or isinstance(hosts, str) or not all(isinstance(host, str) for host in hosts):
        yield Problem(path=place, message="must be a list of addresses")
    elif len(set(hosts)) < len(hosts):
        yield Problem(path=place, message="names a host twice")
    elif isinstance(most, int) and most != len(hosts):
        yield Problem(path=(*path, "max_workers"), message=f"is {most}, and there are {len(hosts)} hosts")


def _of_offers(path: Path, given: Any, sites: Any) -> Iterator[Problem]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        yield Problem(path=path, message="must be a list of one or more")
        return
    known = sites if isinstance(sites, Mapping) else {}
    for at, offer in enumerate(given):
        place = (*path, at)
        if not isinstance(offer, Mapping):
            yield Problem(path=place, message="must be a mapping")
            continue
        for name in offer:
            if name not in _OFFER:
                yield Problem(path=(*place, name), message=f"is not known; there are {', '.join(_OFFER)}")
        if offer.get("site") not in known:
            yield Problem(
                path=place,
                message=f"site {offer.get('site')!r} is none of provider.sites: {', '.join(known) or 'none'}",
            )
        if "price" not in offer:
            yield Problem(path=place, message="price (per hour) is missing: the budget counts it")
        yield from _numbers(offer, place, {"price": float})


def _numbers(given: Mapping[str, Any], path: Path, kinds: Mapping[str, type]) -> Iterator[Problem]:
    for name, kind in kinds.items():
        value = given.get(name)
        if value is None:
            continue
        wrong = isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int)
        if wrong or value < 0:
            what = "a whole number" if kind is int else "a number"
            yield Problem(path=(*path, name), message=f"is {value!r}, and must be {what} from 0")


_MODULES = ("mlplat.cluster.Provider", "mlplat.cluster.rehearsal.Provider")
_BURST = ("wait_s", "back", "stay_s")
_OFFER = ("site", "price", "name", "spot", "node")
_COMMANDS = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "initialization_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "file_mounts",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "auth",
)
