"""Long-lived actors that transform pushed events: found by name, replaced when they die, ended when a call hangs.

The name says home and view version, so old code never serves a new version. They live as long as the process that
started them, ask for no core (an event must not wait for a batch to end), and serve every process of the home
meanwhile.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import ray
import ray.cloudpickle as cloudpickle
import ray.exceptions

from mlplat.errors import Unavailable, UserCodeError
from mlplat.features._ray.worker import ERROR, OnlineWorker, to_arrow
from mlplat.features.definitions import View
from mlplat.features.maker import too_long
from mlplat.features.pool import ONLINE_TIMEOUT_S

NAMESPACE = "mlplat"
START_S = 600.0
"""The longest that a user's `__init__` may take."""
TRIES = 3
"""An event whose actor dies goes to another one. So many deaths are no accident."""


@dataclass(slots=True)
class _Slot:
    """One actor. `calling` is held during a call, so that its time limit begins when it does."""

    name: str
    handle: Any = None
    calling: threading.Lock = field(default_factory=threading.Lock)


class OnlineActors:
    """Those of one home. Thread-safe."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._slots: dict[str, list[_Slot]] = {}
        self._choosing = threading.Lock()

    def make(self, view: View, rows: pl.DataFrame) -> pl.DataFrame:
        """The view's rows. Raises `UserCodeError` for an error or a hang of its code, `Unavailable` for repeated deaths."""
        slot = self._taken(view)
        try:
            return _called(view, slot, rows)
        finally:
            slot.calling.release()

    def close(self) -> None:
        """Forget them; those that this process started end with it."""
        self._slots.clear()

    def _taken(self, view: View) -> _Slot:
        """A free actor; a new one if there is none and the view allows it; else the wait for one that is busy."""
        with self._choosing:
            slots = self._slots.setdefault(view.version, [])
            for slot in slots:
                if slot.calling.acquire(blocking=False):
                    return slot
            if len(slots) < view.actors[1]:
                slot = _Slot(name=f"{self._scope}/{view.name}@{view.version}/{len(slots)}")
                slot.calling.acquire()
                slots.append(slot)
                return slot
            waited_for = slots.pop(0)
            slots.append(waited_for)  # the next to wait takes another
        waited_for.calling.acquire()
        return waited_for


def _called(view: View, slot: _Slot, rows: pl.DataFrame) -> pl.DataFrame:
    limit_s = view.timeout_s or ONLINE_TIMEOUT_S
    table = to_arrow(rows)
    died: Exception | None = None
    for _ in range(TRIES):
        try:
            slot.handle = slot.handle or _started(view, slot.name)
            made = ray.get(slot.handle.make.remote(table), timeout=limit_s)
        except ray.exceptions.GetTimeoutError:
            _end(slot)
            raise too_long(view, limit_s, rows) from None
        except ray.exceptions.RayActorError as error:
            _end(slot)
            died = error
            continue
        refuse_error(made)
        return frame_of(made)
    raise Unavailable(
        f"view {view.name!r}: its actor died {TRIES} times on {rows.height} rows, the first being "
        f"{rows.head(1).to_dicts()}. Look for a lack of memory, or a crash in what its code calls."
    ) from died


def _started(view: View, name: str) -> Any:
    handle = (
        ray.remote(OnlineWorker)
        .options(name=name, namespace=NAMESPACE, get_if_exists=True, num_cpus=0)
        .remote(cloudpickle.dumps((view, None, None)))
    )
    try:
        ray.get(handle.ready.remote(), timeout=START_S)
    except ray.exceptions.GetTimeoutError:
        ray.kill(handle)
        raise UserCodeError(f"view {view.name!r}: __init__ took longer than {START_S:g} s in an actor") from None
    return handle


def _end(slot: _Slot) -> None:
    """So that the name is free: a dead actor may hold it for a moment."""
    if slot.handle is not None:
        ray.kill(slot.handle)
    slot.handle = None


def refuse_error(made: pa.Table) -> None:
    """Raises the error of the user's code that an actor answered with."""
    if ERROR in made.column_names:
        raise UserCodeError(made[ERROR].drop_null()[0].as_py())


def frame_of(made: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(made)
    assert isinstance(frame, pl.DataFrame)
    return frame
