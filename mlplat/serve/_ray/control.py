"""Changes of what is served: recorded in the home, carried out, and undone where they fail."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from mlplat._ray.connect import free_port
from mlplat._ray.flags import has_haproxy
from mlplat._ray.session import Session
from mlplat.clock import Clock, SystemClock
from mlplat.errors import Conflict, InvalidInput, MlplatError, NotFound, Unavailable
from mlplat.home import home_id
from mlplat.jobs._ray.cloud import own_first
from mlplat.metadata.lock import exclusive
from mlplat.model import artifact
from mlplat.notify import Notifier
from mlplat.serve import state
from mlplat.serve._ray import backbones, notifiers
from mlplat.serve._ray.ingress import Ingress
from mlplat.serve._ray.settings import APPLICATION, QUIET, READY_S
from mlplat.serve.endpoint import Endpoint, epochs, gone
from mlplat.serve.http import LIMITS, BodyLimits
from mlplat.serve.listen import Listen, speaks_tls
from mlplat.serve.policy import FeaturePolicy
from mlplat.serve.servers import Servers
from mlplat.serve.shared_redis import connecting
from mlplat.serve.state import Entry, Member
from mlplat.serve.tokens import loopback

_POLL_S = 0.05
LISTEN = Listen()
SERVERS = Servers()


def deploy(
    session: Session,
    home: Path,
    gold: Callable[[], Member],
    *,
    name: str,
    port: int | None = None,
    listen: Listen = LISTEN,
    servers: Servers = SERVERS,
    cache_bytes: int = 0,
    policy: FeaturePolicy | None = None,
    body: BodyLimits = LIMITS,
    objective: str | None = None,
    notify: Sequence[Notifier] | None = None,
) -> Endpoint:
    """Serve what is gold under a name, and return when the URL answers with it. Experiments and shadows that the name has stay,
    and what was gold before is kept ready. `gold` is asked again when nobody else changes the name: a promotion that came
    meanwhile stays.

    `notify` are told when the objective is not kept; None: who was told before. `port` counts when the first endpoint of a
    cluster starts (default: a free one), and `listen` too; the others share them. Raises the error of loading if the model
    cannot be served; then what was served before still is. `Conflict` if the cluster's Serve listens elsewhere, belongs to
    another home, or asks other servers.
    """
    checked = _loads(gold())  # what is bad is found out before anything is changed
    if servers.shared_cache is not None:
        connecting(servers.shared_cache.get_secret_value(), home="")
    packed = None if notify is None else notifiers.packed(notify)
    url = _start(session, port, listen)
    if _running():
        _of_other_home(home, servers)
    cluster = _cluster_id()
    declared: dict[str, Any] = {"cache_bytes": cache_bytes, "body": body, "objective": objective}
    declared["policy"] = policy or FeaturePolicy()

    def served(before: Entry | None) -> Entry:
        member = gold()
        if member.digest != checked.digest:
            _loads(member)
        if before is None:
            values = {
                "version": member.version,
                "digest": member.digest,
                "path": member.path,
                "compute": member.compute,
            }
            return Entry(name=name, url=url, cluster=cluster, **declared, **values)  # type: ignore[arg-type]
        return replace(before.with_gold(member), url=url, cluster=cluster, **declared)

    entry = _apply(session, home, name, served, servers, listen)
    if packed is not None:
        _notify(name, packed)
    return Endpoint(name=name, url=url, version=entry.version, verify=listen.trust())


def _loads(member: Member) -> Member:
    artifact.load(Path(member.path), digest=member.digest, trusted=True)
    return member


def check_served(entry: Entry) -> None:
    """`NotFound` if an entry is not served by the cluster of this process."""
    if entry.cluster != _cluster_id() or not _running():
        raise NotFound(f"{entry.name!r} is not served by this cluster: serve it first")


def _notify(name: str, packed: bytes) -> None:
    notifiers.put(name, packed)
    try:
        _handle().tells.remote(name).result(timeout_s=READY_S)
    except Exception as error:  # noqa: BLE001 - what it says may hold a secret
        notifiers.remove(name)
        raise InvalidInput(
            f"notify: the endpoint's own process cannot make it again ({type(error).__name__}), so {name!r} is served and nobody "
            "will be told. Its class must be in a module that the cluster's processes can import"
        ) from None


def change(session: Session, home: Path, name: str, make: Callable[[Entry], Entry]) -> Entry:
    """Another table for a name that is served. `NotFound` if it is not served by this cluster."""

    def changed(before: Entry | None) -> Entry:
        if before is None:
            raise NotFound(f"{name!r} is not served: serve it first")
        check_served(before)
        return make(before)

    return _apply(session, home, name, changed)


def _apply(
    session: Session,
    home: Path,
    name: str,
    make: Callable[[Entry | None], Entry],
    servers: Servers = SERVERS,
    listen: Listen = LISTEN,
) -> Entry:
    """Backbones first, then the record, then the ingress: nobody is asked before it is warm. Who changes a name waits for others
    that do."""
    with exclusive(home / "locks" / f"serve.{name}"):
        return _apply_alone(session, home, name, make, servers, listen)


def _apply_alone(
    session: Session,
    home: Path,
    name: str,
    make: Callable[[Entry | None], Entry],
    servers: Servers,
    listen: Listen,
) -> Entry:
    before = state.read(home).get(name)
    after = make(before)
    after.table()
    running = {} if before is None or before.cluster != after.cluster else _own(before)
    new = [member for key, member in _own(after).items() if key not in running]
    try:
        with ThreadPoolExecutor(max(1, len(new))) as pool:
            for started in [pool.submit(backbones.start, name, member, owned=session.owned) for member in new]:
                started.result()
        entry = state.put(home, after)
        try:
            if _running():
                _handle().refresh.remote().result(timeout_s=READY_S)
            else:
                _run(session, home, entry.cluster, servers, listen.host)
            _wait(entry, home_id(home), SystemClock())
        except BaseException:
            state.restore(home, name, before)
            raise
    except BaseException as error:
        for member in new:
            backbones.stop(name, member)
        if isinstance(error, Exception):
            raise _plain(error, name) from None
        raise
    for key in running.keys() - _own(entry).keys():
        backbones.stop(name, running[key])
    return entry


def _own(entry: Entry) -> dict[str, Member]:
    """The members that have processes of their own, by their application."""
    return {backbones.application(entry.name, m): m for m in entry.members() if m.compute is not None}


def undeploy(home: Path, name: str) -> None:
    """Stop serving a name. With the last one the application ends."""
    before = state.read(home).get(name)
    state.remove(home, name)
    if not _running():
        return
    if any(entry.cluster == _cluster_id() for entry in state.read(home).values()):
        _handle().refresh.remote().result(timeout_s=READY_S)
    else:
        serve.delete(APPLICATION)
        if before is not None:
            _wait_gone(before.url, SystemClock())
    if before is not None and before.cluster == _cluster_id():
        for member in _own(before).values():
            backbones.stop(name, member)
        notifiers.remove(name)


def flush_log() -> dict[str, int]:
    """Make the prediction log complete up to now: rows "appended", "written" and "dropped" since the replica
    started. `Unavailable` while no replica answers.
    """
    try:
        if not _running():
            return {"appended": 0, "written": 0, "dropped": 0}
        counters: dict[str, int] = _handle().flush_log.remote().result(timeout_s=READY_S)
    except Exception as error:  # noqa: BLE001 - whatever Ray says of a replica that is away, it may be back soon
        raise Unavailable(f"the prediction log is not complete now: {_plain(error, APPLICATION)}") from None
    return counters


def _start(session: Session, port: int | None, listen: Listen) -> str:
    """Serve of this cluster, started if it is not; the URL of its proxy."""
    client = _client()
    if client is None:
        if listen.tls is None and not loopback(listen.host):
            warnings.warn(
                "endpoints listen beyond this machine without TLS: tokens and rows can be read on the way. Connect with `tls`.",
                RuntimeWarning,
                stacklevel=4,
            )
        options = HTTPOptions(host=listen.host, port=port or free_port(), **_own_tls(listen))
        serve.start(http_options=options, logging_config=QUIET)
        client, known = _client(), session.owned  # it started as this process was told
    else:
        _warn_of_other_flags(client)
        known = False
    host, listens = client.http_config.host, client.http_config.port
    if port not in (None, listens):
        raise Conflict(f"port {port}: Ray Serve of this cluster listens on {listens} already. Leave `port` out.")
    if host != listen.host:
        raise Conflict(
            f"host {listen.host}: Ray Serve of this cluster listens on {host} already. Connect with that one."
        )
    if not known:
        _check_tls(listen, listens)
    return listen.url(listens)


def _own_tls(listen: Listen) -> dict[str, str]:
    """For Serve's own proxy. HAProxy gets it from the script that starts it."""
    return {} if listen.tls is None or has_haproxy() else {"ssl_certfile": listen.tls, "ssl_keyfile": listen.tls}


def _check_tls(listen: Listen, port: int) -> None:
    if speaks_tls(listen.host, port, patience_s=READY_S, clock=SystemClock()) == (listen.tls is not None):
        return
    if listen.tls is None:
        raise Conflict("the endpoints of this cluster speak TLS: connect with the `tls` file that it was started with.")
    raise Conflict(
        "the endpoints of this cluster speak plain HTTP already. `tls` counts where a cluster is started by mlplat; on one that "
        "is joined, let the load balancer in front of it speak TLS, and leave `tls` out."
    )


def _run(session: Session, home: Path, cluster: str, servers: Servers, host: str) -> None:
    # On a machine of our own the ingress asks for no core: it would keep a training that wants all of them waiting
    # for ever.
    cpus = 0.0 if session.owned else 0.1
    deployment = Ingress.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": cpus, **own_first()}
    )
    serve.run(deployment.bind(str(home), cluster, servers, host), name=APPLICATION, route_prefix="/")


def _client() -> Any:
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def _running() -> bool:
    return _client() is not None and APPLICATION in serve.status().applications


def _handle() -> Any:
    handle = serve.get_app_handle(APPLICATION)
    if not handle.is_initialized:  # the flags want the router in the caller's loop, and here is none
        handle._init(_run_router_in_separate_loop=True)
    return handle


def _cluster_id() -> str:
    """Another one each time that a cluster starts."""
    return str(ray._private.worker._global_node.session_name)


def _wait(entry: Entry, home: str, clock: Clock) -> None:
    """Until the proxy has found the replica, and the replica serves this table. One of another home may answer for a while after
    that was undeployed."""
    deadline_s = clock.elapsed_s() + READY_S
    while (epochs(entry.url, home) or {}).get(entry.name, 0) < entry.epoch:
        if clock.elapsed_s() > deadline_s:
            raise Unavailable(
                f"{entry.url} does not serve {entry.name!r} as of epoch {entry.epoch} after {READY_S:g} s."
            )
        time.sleep(_POLL_S)


def _wait_gone(url: str, clock: Clock) -> None:
    """Until the proxy knows that nobody answers any more: it hears of it later than Serve does."""
    deadline_s = clock.elapsed_s() + READY_S
    while not gone(url) and clock.elapsed_s() < deadline_s:
        time.sleep(_POLL_S)


def _of_other_home(home: Path, servers: Servers) -> None:
    owner = _handle().home.remote().result(timeout_s=READY_S)
    if owner != str(home):
        raise Conflict(f"this cluster serves the home {owner} already: undeploy there, or connect to another cluster.")
    if unlike := _handle().unlike.remote(servers).result(timeout_s=READY_S):
        raise Conflict(
            f"what this cluster serves {unlike}: connect with the same, or undeploy all names first, then serve again."
        )


def _warn_of_other_flags(client: Any) -> None:
    theirs = ray.get(client._controller.__ray_call__.remote(_uses_haproxy), timeout=READY_S)
    if theirs != has_haproxy():
        warnings.warn(
            "Ray Serve runs on this cluster with other settings than mlplat's: answers are the same, but slower. For "
            "the fast "
            "ones stop it (`serve shutdown`) and connect again.",
            RuntimeWarning,
            stacklevel=4,
        )


def _uses_haproxy(_: object) -> bool:
    from ray.serve._private import constants

    return bool(constants.RAY_SERVE_ENABLE_HA_PROXY)


def _plain(error: Exception, name: str) -> Exception:
    """The error that the user should see: ours as it was raised in the replica, and no traceback of Ray's."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, MlplatError):
        return cause
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Unavailable(f"serving {name!r} failed: {lines[-1]}")
