"""How what comes of a trial gets into the record."""

from __future__ import annotations

from mlplat.train.search.engine import Engine
from mlplat.train.search.running import Done, Event, Failed, Left, Told


def settle(engine: Engine, number: int, event: Event) -> bool:
    """Whether the trial goes on."""
    if isinstance(event, Told):
        return engine.told(number, event.step, event.value)
    if isinstance(event, Done):
        engine.done(number, event.metrics)
    elif isinstance(event, Failed):
        engine.failed(number, event.error, again=event.again)
    elif isinstance(event, Left) and event.gave_way:
        engine.yielded(number)
    return False
