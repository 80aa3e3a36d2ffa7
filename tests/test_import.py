"""The root is light: what a script pays for `import mlplat`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json, sys, time
began = time.perf_counter()
import mlplat
took = time.perf_counter() - began
print(json.dumps([took, [m for m in ("ray", "torch", "mlflow", "polars", "numpy", "redis") if m in sys.modules]]))
"""


def fresh(code: str) -> tuple[float, list[str]]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, loaded = json.loads(done.stdout)
    return took, loaded


def test_importing_the_root_is_fast_and_loads_neither_ray_nor_torch() -> None:
    took, loaded = min(fresh(CODE) for _ in range(3))
    assert loaded == []
    assert took < 0.3


@pytest.mark.slow
def test_defining_features_loads_neither_ray_nor_torch_nor_mlflow() -> None:
    _, loaded = fresh(CODE.replace("import mlplat\n", "from mlplat import features\n"))
    assert not {"ray", "torch", "mlflow", "redis"} & set(loaded)


@pytest.mark.slow
def test_connecting_loads_neither_ray_nor_torch(tmp_path: object) -> None:
    _, loaded = fresh(CODE.replace("import mlplat\n", f"import mlplat; mlplat.connect({str(tmp_path)!r}).close()\n"))
    assert not {"ray", "torch"} & set(loaded)
