"""Metadata in MLflow (runs, models, aliases) with the ledger beside it, in one SQL database: SQLite or PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplat.config import set_environment
from mlplat.errors import InvalidInput, MlplatError, NotFound, Unavailable, unknown
from mlplat.metadata.database import first_line, of_database
from mlplat.metadata.lock import exclusive, exclusive_in
from mlplat.metadata.port import Alias, EndStatus, Goal, LedgerEntry, ModelVersion
from mlplat.metadata.postgres import driver_url, is_postgres
from mlplat.metadata.rules import check_name, finite, texts

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_DIGEST = "mlplat.digest"
_BATCH = 100  # MLflow takes no more params in one call
_PAGE = 1_000


class MlflowMetadata:
    """MLflow's tracking and registry on `url`; `artifacts` is the local folder that MLflow itself may put files into.

    `mlflow ui --backend-store-uri URL` shows the same records.
    """

    def __init__(self, url: str, artifacts: Path) -> None:
        self._artifacts = artifacts.resolve()
        self._lock = self._artifacts / ".lock"
        self._closed = False
        set_environment({"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"})  # read at its import
        with _translated():
            self._open(driver_url(url))

    def start_run(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        check_name(name)
        stored = [Param(key, value) for key, value in texts("param", params).items()]
        stored_tags = texts("tag", tags)
        with self._calls() as client:
            run_id: str = client.create_run(self._experiment(name), tags=stored_tags).info.run_id
            for start in range(0, len(stored), _BATCH):
                client.log_batch(run_id, params=stored[start : start + _BATCH])
            return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now_ms = get_current_time_millis()
        values = [Metric(key, value, now_ms, step) for key, value in finite(metrics).items()]
        with self._calls("run", run_id) as client:
            client.log_batch(run_id, metrics=values)

    def put_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        with self._calls("run", run_id) as client:
            client.get_run(run_id)
            self._ledger.put_texts(run_id, texts)

    def texts(self, run_id: str) -> dict[str, str]:
        with self._calls("run", run_id) as client:
            client.get_run(run_id)
            return self._ledger.texts(run_id)

    def end_run(self, run_id: str, *, status: EndStatus) -> None:
        with self._calls("run", run_id) as client:
            client.set_terminated(run_id, status=status)

    def continue_run(self, run_id: str) -> None:
        with self._calls("run", run_id) as client:
            client.update_run(run_id, status="RUNNING")

    def run(self, run_id: str) -> dict[str, Any]:
        with self._calls("run", run_id) as client:
            run = client.get_run(run_id)
            name = client.get_experiment(run.info.experiment_id).name
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
        return {
            "run_id": run_id,
            "name": name,
            "status": run.info.status,
            "params": dict(run.data.params),
            "metrics": dict(run.data.metrics),
            "tags": tags,
        }

    def register(self, name: str, *, digest: str, path: str, run_id: str) -> ModelVersion:
        check_name(name)
        with self._calls() as client, self._alone():  # else two processes register one digest twice
            for known in self.versions(name):
                if known.digest == digest:
                    return known
            if name not in self.names():
                client.create_registered_model(name)
            return _version(client.create_model_version(name, source=path, run_id=run_id, tags={_DIGEST: digest}))

    def version(self, name: str, version: int) -> ModelVersion:
        versions = self.versions(name)
        if not versions:
            raise unknown("model", name, self.names())
        for known in versions:
            if known.version == version:
                return known
        raise NotFound(
            f"Model {name!r} has no version {version}; it has {versions[0].version} to {versions[-1].version}."
        )

    def versions(self, name: str) -> list[ModelVersion]:
        check_name(name)

        def page(client: Any, token: str | None) -> Any:
            return client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=token)

        with self._calls() as client:
            return sorted((_version(v) for v in _pages(client, page)), key=lambda v: v.version)

    def names(self) -> list[str]:
        def page(client: Any, token: str | None) -> Any:
            return client.search_registered_models(max_results=_PAGE, page_token=token)

        with self._calls() as client:
            return sorted(model.name for model in _pages(client, page))

    def set_alias(self, name: str, alias: Alias, version: int) -> None:
        self.version(name, version)
        with self._calls() as client, self._alone():
            client.set_registered_model_alias(name, alias, str(version))

    def alias(self, name: str, alias: Alias) -> ModelVersion | None:
        check_name(name)
        try:
            with self._calls("model", name) as client:
                version = client.get_registered_model(name).aliases.get(alias)
        except NotFound:
            return None
        return None if version is None else self.version(name, int(version))

    def set_goal(self, name: str, goal: Goal) -> None:
        check_name(name)
        with self._calls(), self._alone():
            self._ledger.put_goal(name, goal)

    def goal(self, name: str) -> Goal | None:
        with self._calls():
            return self._ledger.goal(name)

    def record(self, entry: LedgerEntry) -> None:
        with self._calls():
            self._ledger.append(entry)

    def decisions(self, subject: str | None = None) -> list[LedgerEntry]:
        with self._calls():
            return self._ledger.read(subject)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._ledger.close()
            # MLflow has no call for it, and the last one out folds SQLite's log into the file.
            for store in (self._client._tracking_client.store, self._client._get_registry_client().store):
                store.engine.dispose()

    def _open(self, url: str) -> None:
        from mlplat.metadata.ledger import Ledger

        self._server = is_postgres(url)
        self._ledger = Ledger(url)
        try:
            with self._alone():  # two processes may open one new home: one of them makes the tables
                self._ledger.make_tables()
                self._client = _client(url)
        except BaseException:
            self._ledger.close()
            raise

    def _alone(self) -> AbstractContextManager[None]:
        """No other process, on any machine that uses the database, does what must be done by one at a time."""
        return exclusive_in(self._ledger.engine) if self._server else exclusive(self._lock)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            with self._alone():
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    where = (self._artifacts / name).as_uri()
                    return str(self._client.create_experiment(name, artifact_location=where))
        return str(found.experiment_id)

    @contextmanager
    def _calls(self, kind: str = "", name: str = "") -> Iterator[Any]:
        if self._closed:
            raise Unavailable("The metadata store is closed.")
        with _translated(kind, name):
            yield self._client


def _client(url: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    # It tells of every schema step, and logs with a traceback what it then raises and we translate.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    client.search_registered_models(max_results=1)  # the registry's tables are made by its first use
    return client


def _version(found: Any) -> ModelVersion:
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        digest=found.tags.get(_DIGEST, ""),
        path=found.source,
        run_id=found.run_id or "",
    )


def _pages(client: Any, page: Callable[[Any, str | None], Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        found = page(client, token)
        yield from found
        token = found.token
        if not token:
            return


@contextmanager
def _translated(kind: str = "", name: str = "") -> Iterator[None]:
    """Turn the libraries' errors into ours; none of theirs reaches the caller."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlplatError:
        raise
    except SQLAlchemyError as error:
        raise of_database(error) from error
    except MlflowException as error:
        if isinstance(error.__cause__, SQLAlchemyError):
            raise of_database(error.__cause__) from error
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(f"There is no {kind} {name!r}." if kind else first_line(error)) from error
        if error.error_code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}:
            raise Unavailable(f"The metadata store did not answer: {first_line(error)}") from error
        raise InvalidInput(f"The metadata store refused the call: {first_line(error)}") from error
