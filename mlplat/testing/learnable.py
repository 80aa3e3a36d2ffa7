"""A made training set with a known signal: numbers (some null), categories, a flag, spread over 240 days."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from mlplat.features.training_set import TrainingSet
from mlplat.model.signature import FeatureRef, Field

START_US = 1_356_998_400_000_000
SPAN_S = 240 * 24 * 3600
NULLS = 0.1


def learnable(
    folder: Path,
    *,
    rows: int = 4_000,
    numbers: int = 6,
    categories: tuple[int, ...] = (3, 12),
    seed: int = 0,
    name: str = "late",
    strength: float = 1.0,
) -> TrainingSet:
    """Write one to `folder`. A logistic model of the columns made the labels; `strength` 0 makes them noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, numbers))
    codes = [random.integers(0, size, size=rows) for size in categories]
    flag = random.random(rows) < 0.3
    score = x @ (random.normal(size=numbers) * 0.4) + 0.7 * flag - 1.0 + 0.8 * x[:, 0] * x[:, 1]
    for code, size in zip(codes, categories, strict=True):
        score += (random.normal(size=size) * 0.5)[code]
    label = random.random(rows) < 1 / (1 + np.exp(-strength * score))
    time = np.sort(random.integers(0, SPAN_S, size=rows)) * 1_000_000 + START_US
    columns: dict[str, pa.Array] = {
        "place": pa.array([f"p{i % 7}" for i in range(rows)]),
        "time": pa.array(time, pa.timestamp("us", tz="UTC")),
        "label": pa.array(label.astype(np.int64)),
        **{f"c{i}": pa.array([f"k{v}" for v in code]) for i, code in enumerate(codes)},
        "flag": pa.array(flag),
    }
    for i in range(numbers):
        columns[f"v.x{i}"] = pa.array(x[:, i], mask=random.random(rows) < NULLS if i % 3 == 2 else None)
    return write(
        pa.table(columns),
        folder / f"{name}-{seed}.arrow",
        name=name,
        snapshot=f"made-{seed}-{rows}",
        request=(*(Field(name=f"c{i}", dtype="string") for i in range(len(codes))), Field(name="flag", dtype="bool")),
        features=tuple(Field(name=f"x{i}", dtype="float64") for i in range(numbers)),
    )


def stored(home: Path, *, rows: int = 4_000, numbers: int = 6) -> TrainingSet:
    """One as a home has it."""
    data = learnable(home / "training_sets" / "late", rows=rows, numbers=numbers)
    path = data.path.rename(data.path.with_name(f"{data.snapshot}.arrow"))
    found = replace(data, path=path)
    path.with_suffix(".json").write_bytes(orjson.dumps(found.to_json()))
    return found


def write(
    table: pa.Table,
    path: Path,
    *,
    name: str,
    snapshot: str,
    request: tuple[Field, ...],
    features: tuple[Field, ...],
) -> TrainingSet:
    """A table as a training set with one view, `v`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    view = FeatureRef(view="v", version="1", keys=("place",), fields=features)
    return TrainingSet(
        name=name,
        path=path,
        rows=table.num_rows,
        label="label",
        time="time",
        entities=(Field(name="place", dtype="string", required=True),),
        request=request,
        features=(view,) if features else (),
        snapshot=snapshot,
        data_versions={"made": 1},
    )
