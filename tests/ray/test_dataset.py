"""A Ray Dataset as a batch of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import ray.data

from mlplat import features as F
from tests.features.support import after, open_store

sales = F.source("sales", key="shop", time="at", id="order")


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # its own settings
def test_a_ray_dataset_is_ingested_as_the_table_that_it_holds(ray_cluster: Any, tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"shop": ["a", "b"] * 50, "order": range(100), "at": [after(i) for i in range(100)]}
    ).to_arrow()
    store = open_store(tmp_path)
    done = store.ingest(sales, ray.data.from_arrow([table.slice(0, 60), table.slice(60)]))
    assert (done.rows, done.added) == (100, 100)
    assert store.ingest(sales, table).added == 0
    store.close()
