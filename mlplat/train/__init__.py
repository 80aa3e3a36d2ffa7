"""Training: from a training set to a registered, tested model. Nothing here imports torch or Ray before a run
begins."""

from __future__ import annotations

from mlplat.model.shape import Shape
from mlplat.train.progress import Progress, progress_for
from mlplat.train.promoter import ModelPromoter
from mlplat.train.promotion import Promotion, promote
from mlplat.train.run import Interrupted
from mlplat.train.science import Science
from mlplat.train.settings import Recovery, TrainSettings
from mlplat.train.trainer import TrainedModel, train

__all__ = [
    "Interrupted",
    "ModelPromoter",
    "Progress",
    "Promotion",
    "Recovery",
    "Science",
    "Shape",
    "TrainSettings",
    "TrainedModel",
    "progress_for",
    "promote",
    "train",
]
