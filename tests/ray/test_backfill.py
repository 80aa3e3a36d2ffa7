"""Backfills on Ray through the platform: a driver that is killed, and pushes that go to actors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

import mlplat
from mlplat import features as F
from mlplat.features.tables import EventTable
from tests.features.filling import batch, fill_source, made, readings, squared, wanted
from tests.features.support import after
from tests.ray.test_pool import until

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


@F.view(readings, online="actors")
class described:
    half: float
    text: str
    pid: int

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        text = pl.concat_str("sensor", pl.col("value").cast(pl.String), ignore_nulls=True)
        return rows.select(half=pl.col("value") * 0.7, text=text, pid=pl.lit(os.getpid()))


def victim(driver: int, name: str) -> int:
    """The driver itself, or a process of its cluster."""
    if name == "driver":
        return driver
    return next(p.pid for p in psutil.Process(driver).children(recursive=True) if p.name() == name)


@pytest.mark.parametrize("killed", ["driver", pytest.param("raylet", marks=pytest.mark.soak)])
def test_a_process_that_is_killed_loses_no_row_and_doubles_none(ray_cluster: Any, tmp_path: Path, killed: str) -> None:
    with mlplat.connect(tmp_path / "home") as platform:
        fill_source(platform.features, batches=3, rows=40_000)
        table = EventTable(tmp_path / "home" / "tables" / "views" / f"squared@{squared.version}")
        command = [sys.executable, "-m", "tests.ray.filling_driver", str(tmp_path / "home"), str(tmp_path / "go")]
        driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        until(lambda: table.version() == 0)
        os.kill(victim(driver.pid, killed), signal.SIGKILL)
        (tmp_path / "go").touch()
        assert driver.wait(timeout=60) != 0
        assert 0 < made(tmp_path / "home").height < 120_000
        (operation,) = platform.features.operations()
        assert operation.status().state in ("interrupted", "failed")
        operation.resume().result(timeout_s=120)
        assert made(tmp_path / "home").equals(wanted(tmp_path / "home"))


def test_pushed_events_are_transformed_on_actors_to_the_same_bytes(ray_cluster: Any, tmp_path: Path) -> None:
    with mlplat.connect(tmp_path / "home") as platform:
        platform.features.ingest(readings, batch(1, 2_000))
        platform.features.apply(described)
        event = {"sensor": "s0", "at": after(500), "known_at": after(501), "value": 0.1}
        platform.features.push(readings, event)
        online = platform.features.online(described, {"sensor": ["s0"]}, at=after(600)).to_arrow().to_pylist()[0]
        assert (online["half"], online["text"]) == (0.1 * 0.7, "s00.1")
        assert online["pid"] != os.getpid()
        joined = platform.features.join(
            pl.DataFrame({"sensor": ["s0"], "t": [after(600)]}), [described], time="t"
        ).to_dicts()[0]
        assert (joined["described.half"], joined["described.text"]) == (online["half"], online["text"])
