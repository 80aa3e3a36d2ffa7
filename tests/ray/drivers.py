"""Drivers in processes of their own, each with a cluster of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlplat.config import environment

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


def told(name: str, folder: Path, *words: str) -> list[Any]:
    """What the module `tests.ray.NAME` printed as lines of JSON. Its home folder is `folder`: Ray keeps a token there."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.ray.{name}", str(folder), *words],
        cwd=ROOT,
        env={**environment().variables, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
