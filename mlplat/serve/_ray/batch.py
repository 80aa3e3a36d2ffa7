"""Batch prediction on Ray Data: each actor reads the model once, and then pieces of the table where they lie."""

from __future__ import annotations

from collections.abc import Iterator

from mlplat._ray.each import each
from mlplat.jobs.demand import Demand
from mlplat.serve._ray.backbones import resources
from mlplat.serve.batch import Scoring


def score(work: Scoring, demand: Demand) -> Iterator[int]:
    """The rows of each piece, in order, once its answers are written. Raises as `each`."""
    options = resources(demand, owned=False)
    return each(work, len(work.pieces), actors=(demand.least, demand.count), options=options)
