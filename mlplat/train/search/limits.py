"""What a candidate may cost at most: found out before it becomes a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlplat.errors import InvalidInput
from mlplat.model.architecture import Architecture
from mlplat.model.shape import Shape
from mlplat.train.search.training import Training

LIMITS = ("parameters", "latency_ms")
_TIMES = 30


def checked(training: Training, limits: Mapping[str, float]) -> Callable[[Any], str | None]:
    """Of networks, not of estimators: what these will be only their fit tells. `latency_ms` is the median time of one row through
    the network, on this machine."""
    if unknown := limits.keys() - set(LIMITS):
        raise InvalidInput(f"limits: {', '.join(sorted(unknown))}: there are {' and '.join(LIMITS)}")

    def check(made: Any) -> str | None:
        science, _ = training.chosen(made)
        if science.estimator is not None:
            return None
        module = _module(science.network, training)
        found = {"parameters": sum(float(p.numel()) for p in module.parameters())}
        if "latency_ms" in limits:
            found["latency_ms"] = _latency_ms(module, training)
        over = [name for name, most in limits.items() if found[name] > most]
        return f"{over[0]} {found[over[0]]:,.4g}, more than {limits[over[0]]:,.4g}" if over else None

    return check if limits else lambda made: None


def _module(network: Any, training: Training) -> Any:
    from mlplat.model.build import build, made

    source = training.work.source
    if isinstance(network, Architecture):
        return build(network, source.encoding, outputs=source.task.outputs)
    return made(network, Shape.of(source.encoding, source.task.outputs))


def _latency_ms(module: Any, training: Training) -> float:
    import statistics

    from mlplat.clock import SystemClock
    from mlplat.model.build import logits
    from mlplat.model.check import sample

    clock, row, times = SystemClock(), sample(training.work.source.encoding, 1), []
    module.eval()
    for _ in range(_TIMES):
        began_s = clock.elapsed_s()
        logits(module, *row)
        times.append(clock.elapsed_s() - began_s)
    return 1e3 * statistics.median(times)
