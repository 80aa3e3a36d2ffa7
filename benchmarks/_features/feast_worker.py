"""Runs in Feast's own environment: a line of JSON comes in, the work is done and timed here, a line of JSON goes out.

Nothing but Feast and what it brings may be imported.
"""

import json
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64, Int64
from feast.value_type import ValueType

USER = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)


class Worker:
    def __init__(self, folder: Path, offline: str, online: dict[str, Any]) -> None:
        settings = {
            "project": "bench",
            "provider": "local",
            # 0: the registry is read once and kept
            "registry": {"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
            "offline_store": {"type": offline},
            "online_store": online,
            "entity_key_serialization_version": 3,
        }
        (folder / "feature_store.yaml").write_text(json.dumps(settings))
        self.store = FeatureStore(repo_path=str(folder))
        self.folder = folder

    def offline(self, events: str, labels: str, values: list[str], ttl_days: int) -> None:
        view = self._view(events, values, timedelta(days=ttl_days), created="created")
        self.store.apply([USER, view])
        self.labels = pd.read_parquet(labels)
        self.features = [f"activity:{name}" for name in values]

    def join(self) -> float:
        began = perf_counter()
        self.answer = self.store.get_historical_features(self.labels, self.features).to_df()
        return perf_counter() - began

    def save(self, path: str) -> None:
        self.answer.to_parquet(path)

    def online(self, entities: int, values: list[str]) -> None:
        """Entity i has `i + j / 1000` as value j."""
        view = self._view(str(self.folder / "none.parquet"), values, timedelta(0), created=None)
        self.store.apply([USER, view])
        numbers = np.arange(entities)
        columns = {name: numbers + j / 1000 for j, name in enumerate(values)}
        frame = pd.DataFrame({"user": numbers, "at": datetime(2024, 1, 1, tzinfo=UTC), **columns})
        self.store.write_to_online_store("activity", frame)
        self.features = [f"activity:{name}" for name in values]

    def read(self, users: list[int]) -> float:
        began = perf_counter()
        self.found = self.store.get_online_features(self.features, {"user": users}).to_dict()
        return perf_counter() - began

    def right(self, users: list[int], values: list[str]) -> bool:
        wanted = np.array(users)[:, None] + np.arange(len(values)) / 1000
        return np.array_equal(np.column_stack([self.found[name] for name in values]), wanted)

    def _view(self, path: str, values: list[str], ttl: timedelta, created: str | None) -> FeatureView:
        source = FileSource(path=path, timestamp_field="at", created_timestamp_column=created or "")
        schema = [Field(name="user", dtype=Int64), *(Field(name=name, dtype=Float64) for name in values)]
        return FeatureView(name="activity", entities=[USER], schema=schema, source=source, ttl=ttl)


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    settings = json.loads(sys.argv[1])
    worker = Worker(Path(settings["folder"]), settings["offline"], settings["online"])
    for line in sys.stdin:
        asked = json.loads(line)
        call = getattr(worker, asked.pop("call"))
        try:
            answer = {"result": call(**asked)}
        except Exception:  # noqa: BLE001 - it is told to who asked
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


main()
