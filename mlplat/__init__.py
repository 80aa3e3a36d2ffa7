"""mlplat: a machine-learning platform that is a Python library. The names load when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlplat.cluster.launch import launch
    from mlplat.features.training_set import TrainingSet
    from mlplat.model import space
    from mlplat.platform import Platform, connect
    from mlplat.serve.endpoint import AsyncEndpoint, Endpoint

__all__ = ["AsyncEndpoint", "Endpoint", "Platform", "TrainingSet", "connect", "launch", "space"]

_HOME = {
    "launch": "mlplat.cluster.launch",
    "connect": "mlplat.platform",
    "Platform": "mlplat.platform",
    "TrainingSet": "mlplat.features.training_set",
    "Endpoint": "mlplat.serve.endpoint",
    "AsyncEndpoint": "mlplat.serve.endpoint",
}


def __getattr__(name: str) -> Any:
    if name == "space":
        return importlib.import_module("mlplat.model.space")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
