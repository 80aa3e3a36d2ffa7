"""What the commands that start Ray say of TLS, by which its processes encrypt what they say to each other.

Ray (2.60) reads the variables in each of its processes: `ray/_common/tls_utils.py`, `src/ray/rpc/grpc_client.cc` and
`grpc_server.cc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlplat._ray import flags

STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


def uses(command: str) -> bool:
    return flags.uses_tls(dict(re.findall(rf"\b({flags.USE_TLS})=(\w+)", command)))


def paths(command: str) -> dict[str, str]:
    """The files that a command names, by their variables."""
    return {name: found[1] for name in flags.TLS_FILES if (found := re.search(rf"\b{name}=(\S+)", command))}


def mount(path: str, mounts: Iterable[str]) -> str | None:
    """Which of the `file_mounts` brings a file to the machine: it, or a folder around it."""
    return next((there for there in mounts if path == there or path.startswith(there.rstrip("/") + "/")), None)
