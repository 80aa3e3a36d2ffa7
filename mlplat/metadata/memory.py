"""Metadata in memory: for tests, notebooks and trials that need no record. Gone with the process."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from typing import Any

from mlplat.errors import NotFound, Unavailable, unknown
from mlplat.metadata.port import Alias, EndStatus, Goal, LedgerEntry, ModelVersion
from mlplat.metadata.rules import check_name, finite, holdable, plain, texts


class InMemoryMetadata:
    """A whole metadata store in dictionaries and a list."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, dict[str, Any]] = {}
        self._models: dict[str, list[ModelVersion]] = {}
        self._aliases: dict[tuple[str, Alias], int] = {}
        self._ledger: list[LedgerEntry] = []
        self._texts: dict[str, dict[str, str]] = {}
        self._goals: dict[str, Goal] = {}
        self._closed = False

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        check_name(name)
        run: dict[str, Any] = {"name": name, "status": "RUNNING", "metrics": {}}
        run |= {"params": texts("param", params), "tags": texts("tag", tags)}
        with self._open():
            run_id = uuid.uuid4().hex
            self._runs[run_id] = {"run_id": run_id, **run}
            return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        values = finite(metrics)
        with self._open():
            self._run(run_id)["metrics"].update(values)

    def put_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        with self._open():
            self._run(run_id)
            self._texts.setdefault(run_id, {}).update({name: holdable(text) for name, text in texts.items()})

    def texts(self, run_id: str) -> dict[str, str]:
        with self._open():
            self._run(run_id)
            return dict(self._texts.get(run_id, {}))

    def end_run(self, run_id: str, *, status: EndStatus) -> None:
        with self._open():
            self._run(run_id)["status"] = status

    def continue_run(self, run_id: str) -> None:
        with self._open():
            self._run(run_id)["status"] = "RUNNING"

    def run(self, run_id: str) -> dict[str, Any]:
        with self._open():
            return {key: dict(value) if isinstance(value, dict) else value for key, value in self._run(run_id).items()}

    def register(self, name: str, *, digest: str, path: str, run_id: str) -> ModelVersion:
        check_name(name)
        with self._open():
            versions = self._models.setdefault(name, [])
            for known in versions:
                if known.digest == digest:
                    return known
            version = ModelVersion(name=name, version=len(versions) + 1, digest=digest, path=path, run_id=run_id)
            versions.append(version)
            return version

    def version(self, name: str, version: int) -> ModelVersion:
        with self._open():
            if name not in self._models:
                raise unknown("model", name, self._models)
            if not 1 <= version <= len(self._models[name]):
                raise NotFound(f"Model {name!r} has no version {version}; it has 1 to {len(self._models[name])}.")
            return self._models[name][version - 1]

    def versions(self, name: str) -> list[ModelVersion]:
        with self._open():
            return list(self._models.get(name, []))

    def names(self) -> list[str]:
        with self._open():
            return sorted(self._models)

    def set_alias(self, name: str, alias: Alias, version: int) -> None:
        with self._open():
            self.version(name, version)
            self._aliases[name, alias] = version

    def alias(self, name: str, alias: Alias) -> ModelVersion | None:
        with self._open():
            version = self._aliases.get((name, alias))
            return None if version is None else self.version(name, version)

    def set_goal(self, name: str, goal: Goal) -> None:
        check_name(name)
        with self._open():
            self._goals[name] = goal

    def goal(self, name: str) -> Goal | None:
        with self._open():
            return self._goals.get(name)

    def record(self, entry: LedgerEntry) -> None:
        decision = type(entry.decision)(reason=entry.decision.reason, evidence=plain(entry.decision.evidence))
        copy = LedgerEntry(
            at_us=entry.at_us,
            policy=entry.policy,
            subject=entry.subject,
            decision=decision,
            actor=entry.actor,
            details=plain(entry.details),
        )
        with self._open():
            self._ledger.append(copy)

    def decisions(self, subject: str | None = None) -> list[LedgerEntry]:
        with self._open():
            return [entry for entry in self._ledger if subject is None or entry.subject == subject]

    def close(self) -> None:
        self._closed = True

    def _open(self) -> threading.RLock:
        if self._closed:
            raise Unavailable("The metadata store is closed.")
        return self._lock

    def _run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self._runs:
            raise unknown("run", run_id, self._runs)
        return self._runs[run_id]
