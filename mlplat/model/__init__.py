"""Network + weights + signature = model. Training makes models and serving loads them, so this package stands
below both.

Importing it loads no torch: that comes with the modules that say so, when a model runs or is made.
"""

from __future__ import annotations

from mlplat.model.architecture import Architecture, mlp
from mlplat.model.exported import Exported
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.recorded import Recorded
from mlplat.model.shape import Shape
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.model.task import BINARY, Task

__all__ = [
    "BINARY",
    "Architecture",
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
