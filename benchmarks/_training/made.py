"""Made training sets of numbers alone, and what a benchmark does with a home."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from mlplat import TrainingSet
from mlplat.model.signature import FeatureRef, Field

HELD_OUT_ROWS = 10_000


def training_set(folder: Path, *, rows: int, numbers: int, name: str = "made", seed: int = 0) -> TrainingSet:
    """`rows` a second apart; the label depends on the first numbers. The last HELD_OUT_ROWS seconds can be held out."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((numbers, rows))
    score = values[: min(8, numbers)].sum(axis=0) * 0.5
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    columns = {
        "user": pa.array(np.arange(rows) % 1_000),
        "at": pa.array(start + np.arange(rows) * 1_000_000, pa.timestamp("us", tz="UTC")),
        "label": pa.array((rng.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int64)),
        **{f"v.x{i}": pa.array(column) for i, column in enumerate(values)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path, table = folder / f"{name}-{seed}.arrow", pa.table(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    fields = tuple(Field(name=f"x{i}", dtype="float64") for i in range(numbers))
    return TrainingSet(
        name=name,
        path=path,
        rows=rows,
        label="label",
        time="at",
        entities=(Field(name="user", dtype="int64", required=True),),
        request=(),
        features=(FeatureRef(view="v", version="1", keys=("user",), fields=fields),),
        snapshot=f"{name}-{seed}-{rows}-{numbers}",
        data_versions={},
    )
