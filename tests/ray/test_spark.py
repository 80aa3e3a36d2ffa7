"""Ray on Spark, and a table of Spark, whole: the example as it stands, in processes of its own, with a real Spark."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlplat.features.tables import EventTable

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```py\n(.*?)^```", re.DOTALL | re.MULTILINE)


def require() -> None:
    """Skip where there is no Spark; in CI fail."""
    missing = []
    if shutil.which("java") is None:
        missing.append("apt-get install openjdk-17-jre-headless")
    if importlib.util.find_spec("pyspark") is None:
        missing.append("pip install 'mlplat[spark]'")
    if missing:
        message = f"Spark is not here: {' and '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


@pytest.mark.ray
@pytest.mark.alone
def test_a_table_of_spark_comes_in_and_a_model_is_trained_on_its_executors(tmp_path: Path) -> None:
    require()
    command = [sys.executable, "-m", "examples.spark_cluster", "--home", str(tmp_path / "home")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2000 orders came from Spark" in done.stdout
    assert "trained version 1 on Spark's executors" in done.stdout
    held = EventTable(tmp_path / "home" / "tables" / "sources" / "orders").read()
    start = datetime(2026, 1, 1, tzinfo=UTC)  # whatever the time zone of Spark's session
    assert sorted(held["ordered_at"]) == [start + timedelta(minutes=minute) for minute in range(2_000)]


def test_what_the_page_shows_of_the_example_stands_in_it() -> None:
    example = (ROOT / "examples" / "spark_cluster.py").read_text()
    lines = {line.strip() for line in example.splitlines()}
    shown = SNIPPET.findall((ROOT / "docs" / "how-to" / "use-spark-or-hadoop.md").read_text())
    assert shown
    assert [line for block in shown for line in block.splitlines() if line.strip() not in lines] == []
