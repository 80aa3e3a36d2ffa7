"""Architecture + weights + signature = model. Training makes models and serving loads them, so this package stands
below both.

Importing it loads no torch: that comes with `mlplat.model.build`, when a model runs.
"""

from __future__ import annotations

from mlplat.model.architecture import Architecture, mlp
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.signature import FeatureRef, Field, Signature

__all__ = ["Architecture", "FeatureRef", "Field", "InputEncoding", "Model", "Signature", "mlp"]
