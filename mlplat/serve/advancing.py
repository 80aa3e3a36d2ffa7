"""Asking the gold promoter again and again: one loop, for a thread beside a script and for an operator's command."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mlplat.clock import Clock
from mlplat.decision import Decision
from mlplat.errors import Conflict, NotFound, Unavailable
from mlplat.metadata.rules import plain

_PASSING = (Unavailable, Conflict, NotFound, OSError)
"""What may be over the next time: a store that is away, an experiment that somebody changed or ended, an endpoint that is
being deployed again."""

Step = Callable[[], Iterable[tuple[str, Decision]]]
"""The experiments by arm, each with what was decided now."""


def keep_asking(
    step: Step, *, every_s: float, clock: Clock, wait: Callable[[float], bool], say: Callable[[str], None]
) -> None:
    """Ask every `every_s` seconds, until `wait(seconds)` says that it is over. A decision is told once, and so is what keeps it
    from asking; then it asks again. Raises what is no passing trouble."""
    told: dict[str, Decision] = {}
    trouble = None
    while True:
        began_s = clock.elapsed_s()
        try:
            for arm, decision in step():
                if told.get(arm) != decision:
                    told[arm] = decision
                    say(f"{arm}: {decision.evidence.get('action', 'hold')}: {decision.reason}")
            if trouble is not None:
                say("it goes on")
            trouble = None
        except _PASSING as error:
            if str(error) != trouble:
                say(f"not decided: {error}; it is tried again every {every_s:g} s")
            trouble = str(error)
        if wait(max(0.0, every_s - (clock.elapsed_s() - began_s))):
            return


def same(one: Decision, other: Decision) -> bool:
    """Whether they say the same, of the same evidence; when does not matter. One of them may come from the ledger."""

    def said(decision: Decision) -> tuple[object, ...]:
        evidence = {name: value for name, value in decision.evidence.items() if name != "decided_at"}
        return type(decision), decision.reason, plain(evidence)

    return said(one) == said(other)
