"""A cluster for one piece of work: started from its YAML, used, and ended, whatever happens in between."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplat import interrupts
from mlplat.cluster.check import checked, read
from mlplat.cluster.spec import Spec
from mlplat.errors import InvalidInput, Refused, Unavailable

if TYPE_CHECKING:
    from mlplat.jobs._ray.remote import Remote

Say = Callable[[str], None]
_TRIES, _TUNNEL_S, _TOLD = 3, 60.0, 3
_NOTHING = ("Failed.", "See above for stderr.")


@contextmanager
def launch(
    file: str | Path, *, gpus: float = 0, cpus: float = 0, wait_s: float = 1_800.0, say: Say | None = None
) -> Iterator[Remote]:
    """Start the cluster of a YAML, wait until it has so much in all, and end it with the block: also when that raises, at
    Ctrl-C and at SIGTERM. If this process is killed, the cluster ends itself once nobody works on it (`mlplat cluster guard
    --idle`, which `clusters/aws.yaml` has).

    Raises `InvalidInput` with what is wrong in the YAML, by its line; `Refused` for more than it may ever have; `Unavailable` if
    it does not start, or has not so much after `wait_s` seconds. `say` is told how it goes (default: stderr).
    """
    interrupts.heed()
    path, tell = Path(file), say or _to_stderr
    spec = checked(path)
    _check(path, spec, gpus=gpus, cpus=cpus)
    key, port = _of_head(path, read(path))
    with _sigterm_unwinds():
        try:
            tell(f"{spec.cluster}: starting its head")
            up(path)
            with _tunnel(path, port) as address:
                from mlplat.jobs._ray.remote import Remote

                remote = Remote(address, key)
                if gpus or cpus:
                    _gather(remote, gpus=gpus, cpus=cpus, wait_s=wait_s, say=tell)
                yield remote
        finally:
            tell(f"{spec.cluster}: ending it")
            down(path)


def up(path: Path) -> None:
    """Start a cluster, by Ray's launcher. Raises `Unavailable`."""
    _ray(["up", "-y", "--no-config-cache", str(path)], f"{path}: its head does not start")


def down(path: Path) -> None:
    """End a cluster and all that it bought. Raises `Unavailable` where that was not to be done in three tries."""
    wrong = f"{path}: it was not ended, and its machines may go on: ray down {path}"
    for _ in range(_TRIES - 1):
        with suppress(Unavailable):
            return _ray(["down", "-y", str(path)], wrong)
    return _ray(["down", "-y", str(path)], wrong)


def _gather(remote: Remote, *, gpus: float, cpus: float, wait_s: float, say: Say) -> None:
    """On the head, since machines of the cluster alone can ask for more of them."""
    command = ["mlplat", "cluster", "gather", "--gpus", f"{gpus:g}", "--cpus", f"{cpus:g}", "--wait", f"{wait_s:g}"]
    heard: list[str] = []

    def hear(text: str) -> None:
        for line in text.splitlines():
            heard.append(line)
            say(line)

    if not remote.follow(remote.run(command), hear):
        raise Unavailable(heard[-1] if heard else "the cluster did not get what was asked for")


def _check(path: Path, spec: Spec, *, gpus: float, cpus: float) -> None:
    for name, asked in (("GPU", gpus), ("CPU", cpus)):
        most = sum(
            kind.resources.get(name, 0.0) * kind.max_workers for kind in spec.types.values() if kind.name != spec.head
        )
        if asked > most:
            raise Refused(
                f"{asked:g} {name}s were asked for, and {path} may have {most:g} at most: see its max_workers"
            )


def _of_head(path: Path, config: Mapping[str, Any]) -> tuple[Path, int]:
    """Where its key is on this machine, and the port of its dashboard."""
    command = next((c for c in config["head_start_ray_commands"] if re.search(r"\bray start\b", c)), "")
    token = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", command)
    mounted = config["file_mounts"].get(token[1]) if token else None
    if mounted is None:
        raise InvalidInput(f"{path}: head_start_ray_commands must have RAY_AUTH_TOKEN_PATH=..., a path of file_mounts")
    key = Path(mounted).expanduser()
    if not key.is_file():
        raise InvalidInput(f"{path}: there is no key at {mounted}; make one: openssl rand -hex 32 > {mounted}")
    for there, here in config["file_mounts"].items():
        if not Path(here).expanduser().exists():
            raise InvalidInput(
                f"{path}: file_mounts: {there}: there is no {here} (certificates: mlplat cluster certificates {path} FOLDER)"
            )
    port = re.search(r"--dashboard-port=(\d+)", command)
    return key, int(port[1]) if port else 8265


def _ray(words: Sequence[str], wrong: str) -> None:
    done = subprocess.run(_command(words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{wrong}: {_why(done.stdout + done.stderr)}")


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *words]


def _why(said: str) -> str:
    """What Ray's launcher calls an error, without its times, colours and tracebacks."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in said.splitlines()]
    told = [re.fullmatch(r"\S+ \S+\s(\w+) \S+ -- (.*)", line) for line in lines]
    errors = [
        m[2] for m in told if m and m[1] in {"ERR", "PANIC"} and re.search(r"[a-z]", m[2]) and m[2] not in _NOTHING
    ]
    found = list(dict.fromkeys(line for line in errors if not line.startswith(("Full traceback", "New status"))))
    return " ".join(found[-_TOLD:]) or next((line for line in reversed(lines) if line), "it said nothing")


@contextmanager
def _tunnel(path: Path, port: int) -> Iterator[str]:
    """A port of this machine that leads to the head's dashboard."""
    from mlplat._ray.connect import free_port
    from mlplat.cluster.hosts import answers

    own = free_port()
    words = ["dashboard", "--no-config-cache", "--port", str(own), "--remote-port", str(port), str(path)]
    process = subprocess.Popen(
        _command(words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        alive, pause = answers(own), threading.Event()
        for _ in range(round(_TUNNEL_S / 0.5)):
            if alive("127.0.0.1"):
                break
            if process.poll() is not None:
                raise Unavailable(f"{path}: no way to its dashboard: the tunnel ended with code {process.returncode}")
            pause.wait(0.5)
        else:
            raise Unavailable(f"{path}: no way to its dashboard after {_TUNNEL_S:g} s")
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
