"""What a network costs to answer with."""

from __future__ import annotations

import statistics
from typing import Any

from mlplat.clock import SystemClock
from mlplat.model.architecture import Architecture
from mlplat.model.shape import Shape
from mlplat.train.work import Source

LATENCY = "latency_ms"
_ROUNDS, _TIMES = 3, 10


def built(network: Any, source: Source) -> Any:
    """With weights that have learnt nothing."""
    from mlplat.model.build import build, made

    if isinstance(network, Architecture):
        return build(network, source.encoding, outputs=source.task.outputs)
    return made(network, Shape.of(source.encoding, source.task.outputs))


def latency_ms(module: Any, source: Source) -> float:
    """The median time of one row through it, in this process, in the calmest of a few rounds: what else the machine does is not
    the network's."""
    from mlplat.model.build import logits
    from mlplat.model.check import sample

    clock, row, rounds = SystemClock(), sample(source.encoding, 1), []
    module.eval()
    for _ in range(_ROUNDS):
        times = []
        for _ in range(_TIMES):
            began_s = clock.elapsed_s()
            logits(module, *row)
            times.append(clock.elapsed_s() - began_s)
        rounds.append(statistics.median(times))
    return 1e3 * min(rounds)
