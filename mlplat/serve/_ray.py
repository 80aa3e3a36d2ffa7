"""The endpoint on Ray Serve: one application with one ingress replica that holds the app and every model it serves.

A new version of a name that is served already is loaded and warmed beside the old one, in the running replica, and
takes over between two requests: none is dropped. The replica itself is never updated in place by Ray Serve.
"""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from pydantic import SecretStr
from ray import serve
from ray.serve.config import BackpressureConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from mlplat._ray.connect import free_port
from mlplat._ray.flags import has_haproxy
from mlplat._ray.session import Session
from mlplat.clock import Clock, SystemClock
from mlplat.errors import Conflict, MlplatError, Unavailable
from mlplat.model import artifact
from mlplat.serve import state
from mlplat.serve.answer import Answerer
from mlplat.serve.app import App
from mlplat.serve.endpoint import Endpoint, versions
from mlplat.serve.load import load
from mlplat.serve.log import PredictionLog
from mlplat.serve.served import Served
from mlplat.serve.state import Entry

APPLICATION = "mlplat"
HOST = "127.0.0.1"
_READY_S = 60.0
_POLL_S = 0.05
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)

logging.getLogger("ray.serve").setLevel(logging.WARNING)


@serve.deployment(
    name="ingress",
    num_replicas=1,
    max_ongoing_requests=256,
    max_queued_requests=1_024,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    health_check_period_s=5,
    logging_config=_QUIET,
)
@serve.ingress()
class Ingress:
    """Holds what one home serves in one life of a cluster."""

    def __init__(self, home: str, cluster: str, online: SecretStr | None) -> None:
        """`online` is the URL of the online store's server: an argument that no log and no record shows."""
        from mlplat.features.reader import open_reader

        self._home = Path(home)
        self._online = online
        self._cluster = cluster
        self._log = PredictionLog(self._home)
        self._reader = open_reader(self._home, None if online is None else online.get_secret_value())
        answerer = Answerer(reader=self._reader, log=self._log, clock=SystemClock(), new_id=lambda: uuid4().hex)
        self._app = App(answerer, self._load({}), on_stop=self._stop)

    def __serve_build_asgi_app__(self) -> App:
        return self._app

    async def refresh(self) -> dict[str, int]:
        """Serve what the home records now. Versions by name."""
        served = await asyncio.to_thread(self._load, dict(self._app.served))
        self._app.serve(served)
        return {name: one.gold.number for name, one in served.items()}

    async def home(self) -> str:
        return str(self._home)

    async def reads(self, online: SecretStr | None) -> bool:
        """Whether this is the online store that the features are read from."""
        return self._online == online

    async def flush_log(self) -> dict[str, int]:
        """Returns when every answer so far is in the log's files."""
        await asyncio.to_thread(self._log.flush)
        counters = self._log.counters()
        return {"appended": counters.appended, "written": counters.written, "dropped": counters.dropped}

    def _load(self, before: dict[str, Served]) -> dict[str, Served]:
        entries = [entry for entry in state.read(self._home).values() if entry.cluster == self._cluster]
        return {entry.name: _kept(before, entry) or load(entry) for entry in entries}

    def _stop(self) -> None:
        self._log.close()
        self._reader.close()


def _kept(before: dict[str, Served], entry: Entry) -> Served | None:
    served = before.get(entry.name)
    same = served is not None and served.table.epoch == entry.epoch and served.gold.digest == entry.digest
    return served if same else None


def deploy(
    session: Session,
    home: Path,
    *,
    name: str,
    version: int,
    digest: str,
    path: str,
    port: int | None = None,
    online: SecretStr | None = None,
) -> Endpoint:
    """Serve a version under a name and return when the URL answers with it.

    `port` counts when the first endpoint of a cluster starts (default: a free one); the others share it. Raises the
    error of loading if the model cannot be served; then what was served before still is. `Conflict` if the cluster's
    Serve belongs to another home, or reads another online store.
    """
    artifact.load(Path(path), digest=digest, trusted=True)  # a bad one is found out before anything is changed
    url = _start(port)
    if _running():
        _of_other_home(home, online)
    cluster = _cluster_id()
    before = state.read(home).get(name)
    state.put(home, Entry(name=name, version=version, digest=digest, path=str(path), url=url, cluster=cluster))
    try:
        if _running():
            _handle().refresh.remote().result(timeout_s=_READY_S)
        else:
            _run(session, home, cluster, online)
        _wait(url, name, version, SystemClock())
    except BaseException as error:
        state.restore(home, name, before)
        if isinstance(error, Exception):
            raise _plain(error, name) from None
        raise
    return Endpoint(name=name, url=url, version=version)


def undeploy(home: Path, name: str) -> None:
    """Stop serving a name. With the last one the application ends."""
    state.remove(home, name)
    if not _running():
        return
    if any(entry.cluster == _cluster_id() for entry in state.read(home).values()):
        _handle().refresh.remote().result(timeout_s=_READY_S)
    else:
        serve.delete(APPLICATION)


def flush_log() -> dict[str, int]:
    """Make the prediction log complete up to now: rows "appended", "written" and "dropped" since the replica
    started.
    """
    if not _running():
        return {"appended": 0, "written": 0, "dropped": 0}
    counters: dict[str, int] = _handle().flush_log.remote().result(timeout_s=_READY_S)
    return counters


def _start(port: int | None) -> str:
    """Serve of this cluster, started if it is not; the URL of its proxy."""
    client = _client()
    if client is None:
        serve.start(http_options=HTTPOptions(host=HOST, port=port or free_port()), logging_config=_QUIET)
        client = _client()
    else:
        _warn_of_other_flags(client)
    listens = client.http_config.port
    if port not in (None, listens):
        raise Conflict(f"port {port}: Ray Serve of this cluster listens on {listens} already. Leave `port` out.")
    return f"http://{HOST}:{listens}"


def _run(session: Session, home: Path, cluster: str, online: SecretStr | None) -> None:
    # On a machine of our own the ingress asks for no core: it would keep a training that wants all of them waiting
    # for ever.
    cpus = 0.0 if session.owned else 0.1
    deployment = Ingress.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": cpus}
    )
    serve.run(deployment.bind(str(home), cluster, online), name=APPLICATION, route_prefix="/")


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


def _wait(url: str, name: str, version: int, clock: Clock) -> None:
    """Until the proxy has found the replica, and the replica serves the version."""
    deadline_s = clock.elapsed_s() + _READY_S
    while (versions(url) or {}).get(name) != version:
        if clock.elapsed_s() > deadline_s:
            raise Unavailable(f"{url} does not serve {name!r} version {version} after {_READY_S:g} s.")
        time.sleep(_POLL_S)


def _of_other_home(home: Path, online: SecretStr | None) -> None:
    owner = _handle().home.remote().result(timeout_s=_READY_S)
    if owner != str(home):
        raise Conflict(f"this cluster serves the home {owner} already: undeploy there, or connect to another cluster.")
    if not _handle().reads.remote(online).result(timeout_s=_READY_S):
        raise Conflict(
            "what this cluster serves reads another online store: undeploy all names first, then serve again."
        )


def _warn_of_other_flags(client: Any) -> None:
    theirs = ray.get(client._controller.__ray_call__.remote(_uses_haproxy), timeout=_READY_S)
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
    return Unavailable(f"serving {name!r} failed: {str(error).strip().splitlines()[-1]}")
