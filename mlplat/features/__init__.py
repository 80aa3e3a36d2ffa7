"""The feature store. What a user writes to define features: `from mlplat import features as F`."""

from mlplat.features.declare import (
    age,
    count,
    derived,
    field,
    last,
    latest,
    max,
    mean,
    min,
    source,
    sum,
    view,
)
from mlplat.features.definitions import Derived, Source, View
from mlplat.features.training_set import TrainingSet

__all__ = [
    "Derived",
    "Source",
    "TrainingSet",
    "View",
    "age",
    "count",
    "derived",
    "field",
    "last",
    "latest",
    "max",
    "mean",
    "min",
    "source",
    "sum",
    "view",
]
