"""Network + weights + signature = model. Training makes models and serving loads them, so this package stands
below both.

Importing it loads no torch: that comes with the modules that say so, when a model runs or is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlplat.model.architecture import Architecture, mlp
from mlplat.model.estimator import Estimator
from mlplat.model.exported import Exported
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.pyfunc import Pyfunc
from mlplat.model.recorded import Recorded
from mlplat.model.shape import Shape
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.model.task import BINARY, Task


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Pyfunc:
    """What MLflow calls, by this name, to load an artifact: with `model_config={"trusted": True}` also one that brings code."""
    from mlplat.model.artifact import load

    return Pyfunc(load(Path(path), trusted=bool((model_config or {}).get("trusted"))).model)


__all__ = [
    "BINARY",
    "Architecture",
    "Estimator",
    "Exported",
    "FeatureRef",
    "Field",
    "InputEncoding",
    "Model",
    "Recorded",
    "Shape",
    "Signature",
    "Task",
    "mlp",
]
