"""Long-running work that has a name: any process of the home sees how far it is, waits for it, cancels it, and goes on
with it after a crash. Its state is a file under the home; what it has done is in the tables, so the file may be lost."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
import psutil

from mlplat import errors
from mlplat.clock import Clock
from mlplat.errors import MlplatError, Refused, unknown
from mlplat.features.backfill import Stopped, Watch
from mlplat.features.definitions import View
from mlplat.features.progress import Shown
from mlplat.features.tables import locked

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
"""Interrupted: its process is gone, or let go of it; it can go on."""
Phase = Literal["rows", "online"]
_LIVE: tuple[State, ...] = ("queued", "running")
BEAT_S = 0.5
_LOG = logging.getLogger(__name__)

Work = Callable[[View, Watch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far an operation is. Of `phase` "rows" (making rows) or "online" (bringing them to the online store), `done` of
    `total` rows; `rows_per_s` and `left_s` are of this phase, None while they are unknown. `beat_at_us` is when it last
    said so (microseconds UTC). `error` is the message of what failed."""

    state: State
    phase: Phase = "rows"
    done: int = 0
    total: int = 0
    rows_per_s: float | None = None
    beat_at_us: int = 0
    error: str | None = None

    @property
    def left_s(self) -> float | None:
        return (self.total - self.done) / self.rows_per_s if self.rows_per_s else None

    @property
    def ended(self) -> bool:
        return self.state not in _LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What the file holds. The owner is the process `pid` that started at `started` (seconds since the epoch)."""

    view: Mapping[str, Any]
    pid: int
    started: float
    status: Status
    error_class: str | None = None

    @classmethod
    def load(cls, path: Path) -> _Record:
        raw = orjson.loads(path.read_bytes())
        return cls(**{**raw, "status": Status(**raw["status"])})

    def alive(self) -> bool:
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) < 1.0)
        except psutil.Error:
            return False


class Operations:
    """Those of one home. Thread-safe."""

    def __init__(self, home: Path, clock: Clock, work: Work) -> None:
        self.folder = home / "operations"
        self.clock = clock
        self._work = work
        self._running: dict[str, tuple[threading.Thread | None, _Telling]] = {}

    def begin(self, view: View, *, wait: bool) -> Operation:
        """Start the work on a view version, or go on with it, here; join it if a process is at it already.

        With `wait` it is done on the calling thread, and its errors are raised.
        """
        operation = Operation(self, f"{view.name}-{view.version}")
        telling = self._claimed(operation.id, view)
        if telling is None:
            if wait:
                operation.result()
            return operation
        if wait:
            self._running[operation.id] = (None, telling)
            self._run(view, telling)
            return operation
        thread = threading.Thread(target=self._run_apart, args=(view, telling), name=operation.id, daemon=True)
        self._running[operation.id] = (thread, telling)
        thread.start()
        return operation

    def get(self, id: str) -> Operation:
        if not self.path(id).exists():
            raise unknown("operation", id, [operation.id for operation in self.all()])
        return Operation(self, id)

    def all(self) -> list[Operation]:
        return [Operation(self, path.stem) for path in sorted(self.folder.glob("*.json"))]

    def close(self) -> None:
        """Let go of what runs in this process: it is interrupted behind its last whole chunk."""
        for thread, telling in list(self._running.values()):
            telling.stop("interrupted")
            if thread is not None:
                thread.join()

    def path(self, id: str) -> Path:
        return self.folder / f"{id}.json"

    def _claimed(self, id: str, view: View) -> _Telling | None:
        """What the work tells through, if no process that lives is at it; then its file says that this one is."""
        with locked(self.folder / f".{id}.lock"):
            path = self.path(id)
            if path.exists() and (known := _Record.load(path)).status.state in _LIVE and known.alive():
                return None
            cancel_file(self.folder, id).unlink(missing_ok=True)
            me = psutil.Process(os.getpid())
            status = Status(state="queued", beat_at_us=self.clock.now_us())
            record = _Record(view=view.to_json(), pid=me.pid, started=me.create_time(), status=status)
            telling = _Telling(self.folder, id, record, self.clock)
            telling.write()
            return telling

    def _run(self, view: View, telling: _Telling) -> None:
        try:
            telling.say(state="running")
            self._work(view, telling)
            telling.end("done")
        except Stopped:
            telling.end(telling.stopped_as)
        except BaseException as error:
            telling.end("failed" if isinstance(error, Exception) else "interrupted", error)
            raise
        finally:
            self._running.pop(telling.id, None)

    def _run_apart(self, view: View, telling: _Telling) -> None:
        try:
            self._run(view, telling)
        except MlplatError as error:
            _LOG.warning("operation %s failed: %s", telling.id, error)  # whoever asks for its result gets it too


@dataclass(frozen=True, slots=True)
class Operation:
    """A handle. Made in any process of the home, it is about the same operation."""

    _of: Operations
    id: str

    def status(self) -> Status:
        record = _Record.load(self._of.path(self.id))
        if record.status.state in _LIVE and not record.alive():
            return replace(record.status, state="interrupted")
        return record.status

    def wait(self, timeout_s: float | None = None) -> Status:
        """Until it ended, or for so long; then how far it is."""
        began_s = self._of.clock.elapsed_s()
        never = threading.Event()
        while not (status := self.status()).ended:
            if timeout_s is not None and self._of.clock.elapsed_s() - began_s >= timeout_s:
                break
            never.wait(_POLL_S)
        return status

    def result(self, timeout_s: float | None = None) -> None:
        """Wait, and raise what it raised, or `Refused` if it was cancelled, interrupted, or still runs."""
        status = self.wait(timeout_s)
        if status.state == "failed":
            raise _error(_Record.load(self._of.path(self.id)))
        if status.state != "done":
            raise Refused(
                f"operation {self.id!r} is {status.state} at {status.done:,} of {status.total:,} rows; "
                + (
                    "wait for longer"
                    if not status.ended
                    else "go on with it by platform.features.operation(id).resume()"
                )
            )

    def cancel(self) -> None:
        """Ask it to stop behind the chunk that it is at. What it has made is kept. Nothing happens if it has ended."""
        if not self.status().ended:
            cancel_file(self._of.folder, self.id).touch()

    def resume(self) -> Operation:
        """Go on in this process, in the background, where it stopped."""
        return self._of.begin(View.from_json(_Record.load(self._of.path(self.id)).view), wait=False)


class _Telling:
    """The `Watch` that writes the operation's file, and shows it to people."""

    def __init__(self, folder: Path, id: str, record: _Record, clock: Clock) -> None:
        self.id = id
        self.stopped_as: State = "cancelled"
        self._path, self._cancel = folder / f"{id}.json", cancel_file(folder, id)
        self._record = record
        self._clock = clock
        self._stop = threading.Event()
        self._began_s = self._beat_s = clock.elapsed_s()
        self._at_first = 0
        self._shown = Shown(f"view {record.view['name']}", clock)

    def begin(self, phase: str, *, done: int, total: int) -> None:
        if done == total:  # a last look that found nothing new
            return
        self._began_s, self._at_first = self._clock.elapsed_s(), done
        self._shown.begin(phase, done=done, total=total)
        self.say(phase=_PHASES[phase], done=done, total=total, rows_per_s=None)

    def advance(self, rows: int) -> None:
        done = self._record.status.done + rows
        now_s = self._clock.elapsed_s()
        spent_s, made = now_s - self._began_s, done - self._at_first
        much = made * _TELLING_SHARE >= self._record.status.total - self._at_first
        rate = made / spent_s if much and spent_s > 0 else None
        status = replace(self._record.status, done=done, rows_per_s=rate)
        self._record = replace(self._record, status=status)
        self._shown.advance(done, rate)
        if now_s - self._beat_s >= BEAT_S:
            self.write()

    def stopped(self) -> bool:
        return self._stop.is_set() or self._cancel.exists()

    def stop(self, state: State) -> None:
        self.stopped_as = state
        self._stop.set()

    def say(self, **changes: Any) -> None:
        self._record = replace(self._record, status=replace(self._record.status, **changes))
        self.write()

    def end(self, state: State, error: BaseException | None = None) -> None:
        self._shown.end()
        if error is not None:
            self._record = replace(self._record, error_class=type(error).__name__)
        self.say(state=state, error=None if error is None else str(error))
        self._cancel.unlink(missing_ok=True)

    def write(self) -> None:
        self._beat_s = self._clock.elapsed_s()
        status = replace(self._record.status, beat_at_us=self._clock.now_us())
        self._record = replace(self._record, status=status)
        draft = self._path.with_name(f".{self.id}.{os.getpid()}")
        draft.write_bytes(orjson.dumps(asdict(self._record)))
        draft.replace(self._path)


_PHASES: Mapping[str, Phase] = {phase: phase for phase in get_args(Phase)}
_POLL_S = 0.05
_TELLING_SHARE = 100
"""The rate is told from a hundredth of the rows on: the first ones wait for actors to start."""


def cancel_file(folder: Path, id: str) -> Path:
    """Its being there asks for a stop."""
    return folder / f".{id}.cancel"


def _error(record: _Record) -> MlplatError:
    """As it was raised, perhaps in another process."""
    found = getattr(errors, record.error_class or "", MlplatError)
    plain = isinstance(found, type) and issubclass(found, MlplatError) and found is not errors.BatchRefused
    return found(record.status.error) if plain else MlplatError(f"{record.error_class}: {record.status.error}")
