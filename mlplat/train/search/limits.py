"""What a candidate may cost at most: found out before it becomes a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlplat.errors import InvalidInput
from mlplat.train.search.cost import LATENCY, built, latency_ms
from mlplat.train.search.training import Training

LIMITS = ("parameters", LATENCY)


def checked(training: Training, limits: Mapping[str, float]) -> Callable[[Any], str | None]:
    """Of networks, not of estimators: what these will be only their fit tells. `latency_ms` is the median time of one row through
    the network, on this machine."""
    if unknown := limits.keys() - set(LIMITS):
        raise InvalidInput(f"limits: {', '.join(sorted(unknown))}: there are {' and '.join(LIMITS)}")

    def check(made: Any) -> str | None:
        science, _ = training.chosen(made)
        if science.estimator is not None:
            return None
        source = training.work.source
        module = built(science.network, source)
        found = {"parameters": sum(float(p.numel()) for p in module.parameters())}
        if LATENCY in limits:
            found[LATENCY] = latency_ms(module, source)
        over = [name for name, most in limits.items() if found[name] > most]
        return f"{over[0]} {found[over[0]]:,.4g}, more than {limits[over[0]]:,.4g}" if over else None

    return check if limits else lambda made: None
