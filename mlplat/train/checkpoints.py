"""The checkpoints of one run on disk: a folder each, written whole or not at all, verified before it is read. Imports torch.

state.safetensors  every tensor
best.safetensors   the weights of the best epoch so far, if there is one; a link where they are the last checkpoint's
state.json         everything else, and the sha256 of the others
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from mlplat.disk import sync

Tensors = Mapping[str, torch.Tensor]

KEPT = 2
"""The newest may turn out to be broken."""
_STATE, _BEST, _JSON = "state.safetensors", "best.safetensors", "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run after `step` steps: `state` is of plain values and tensors, nested; `best` are weights by name."""

    step: int
    state: Mapping[str, Any]
    best: Tensors


class Checkpoints:
    """Those of one folder. The process that has `claimed` it writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Waits for a writer that was there before: the workers of a driver that was killed live on for a moment."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def steps(self) -> list[int]:
        """Of what is there, newest first; it may be broken."""
        if not self._folder.exists():
            return []
        return sorted((int(p.name) for p in self._folder.iterdir() if p.name.isdigit()), reverse=True)

    def recover(self) -> tuple[int | None, list[str]]:
        """The newest step whose checkpoint is whole, and what was wrong with newer ones, which are removed."""
        broken: list[str] = []
        for step in self.steps():
            try:
                self.read(step)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                broken.append(f"the checkpoint of step {step} is broken ({error}): going on from an older one")
                shutil.rmtree(self._folder / _name(step), ignore_errors=True)
            else:
                return step, broken
        return None, broken

    def read(self, step: int) -> Checkpoint:
        """Raises what reading broken bytes raises."""
        folder = self._folder / _name(step)
        described = json.loads((folder / _JSON).read_bytes())
        for name, digest in described["files"].items():
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} is not what was written")
        tensors = safetensors.load_file(folder / _STATE)
        best = safetensors.load_file(folder / _BEST) if _BEST in described["files"] else {}
        return Checkpoint(step=step, state=joined(described["state"], tensors), best=best)

    def write(self, step: int, state: Mapping[str, Any], tensors: Tensors, best: Tensors | None) -> None:
        """Durable when it returns. `state` and `tensors` are what `parted` gave; `best` None: as in the newest one."""
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._folder))
        try:
            files = {_STATE: _save(dict(tensors), unfinished / _STATE)}
            if best:
                files[_BEST] = _save(dict(best), unfinished / _BEST)
            elif best is None:
                files |= self._link_best(unfinished)
            (unfinished / _JSON).write_text(json.dumps({"state": state, "files": files}))
            sync(unfinished / _JSON)
            target = self._folder / _name(step)
            shutil.rmtree(target, ignore_errors=True)  # of a run by the same name that was not whole
            unfinished.rename(target)
            sync(self._folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        # Higher ones are older too: another number of workers made steps of fewer rows.
        there = self.steps()
        for old in [s for s in there if s > step] + [s for s in there if s < step][KEPT - 1 :]:
            shutil.rmtree(self._folder / _name(old), ignore_errors=True)

    def _link_best(self, unfinished: Path) -> dict[str, str]:
        last = self._folder / _name(self.steps()[0])
        digest = json.loads((last / _JSON).read_bytes())["files"].get(_BEST)
        if digest is None:
            return {}
        os.link(last / _BEST, unfinished / _BEST)
        return {_BEST: digest}


def parted(state: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The same as JSON, its tensors put into `tensors` and named in their places. Keys of dicts may be numbers."""
    if isinstance(state, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, Mapping):
        return {"dict": [[key, parted(value, tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [parted(value, tensors) for value in state]
    return state


def joined(state: Any, tensors: Tensors) -> Any:
    """What was `parted`; tuples come back as lists."""
    if isinstance(state, list):
        return [joined(value, tensors) for value in state]
    if isinstance(state, dict):
        if "tensor" in state:
            return tensors[state["tensor"]]
        return {key: joined(value, tensors) for key, value in state["dict"]}
    return state


def _name(step: int) -> str:
    return f"{step:012d}"


def _save(tensors: dict[str, torch.Tensor], path: Path) -> str:
    try:
        safetensors.save_file(tensors, path)
    except SafetensorError as error:  # what it makes of a disk that is full
        raise OSError(str(error)) from error
    sync(path)
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
