"""Whether machines may be bought: what was spent, what those that run will cost, and what the budget says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mlplat.clock import US_PER_S
from mlplat.cluster.spec import Budget
from mlplat.decision import Act, Hold

HOUR_US = 3_600 * US_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """A machine that was bought: from when to when it cost `price` per hour. `ended_us` None: it still does."""

    began_us: int
    ended_us: int | None
    price: float
    gpus: float = 0.0

    def spent(self, begin_us: int, end_us: int) -> float:
        """Between two moments."""
        until_us = end_us if self.ended_us is None else min(self.ended_us, end_us)
        return self.price * max(0, until_us - max(self.began_us, begin_us)) / HOUR_US


def decide(budget: Budget, bills: Iterable[Bill], *, price: float, gpus: float, now_us: int) -> Act | Hold:
    """Whether one more machine may be bought, for `price` per hour.

    What runs is taken to go on for an hour, or to the end of the window where that is nearer: so what was bought within the
    budget stays within it if it is given back within the hour.
    """
    bills = list(bills)
    there = [bill for bill in bills if bill.ended_us is None]
    if budget.nodes is not None and len(there) + 1 > budget.nodes:
        return Hold(
            reason=f"{len(there)} bought machines run, and the budget has {budget.nodes}",
            evidence={"nodes": len(there)},
        )
    have = sum(bill.gpus for bill in there)
    if budget.gpus is not None and have + gpus > budget.gpus:
        return Hold(
            reason=f"bought machines have {have:g} GPUs, {gpus:g} more are asked for, and the budget has {budget.gpus:g}",
            evidence={"gpus": have},
        )
    evidence: dict[str, float] = {}
    for name, limit in (("hour", budget.per_hour), ("day", budget.per_day), ("month", budget.per_month)):
        begin_us, end_us = window(name, now_us)
        spent = sum(bill.spent(begin_us, now_us) for bill in bills)
        ahead_us = min(HOUR_US, end_us - now_us)
        ahead = (price + sum(bill.price for bill in there)) * ahead_us / HOUR_US
        evidence[f"spent_{name}"] = round(spent, 4)
        if limit is not None and spent + ahead > limit:
            return Hold(
                reason=f"{spent:.2f} of {limit:g} are spent this {name}, and what runs with it would cost {ahead:.2f} more",
                evidence=evidence,
            )
    return Act(reason="it is within the budget", evidence=evidence)


def spent(budget: Budget, bills: Iterable[Bill], *, ahead_s: float, now_us: int) -> str:
    """Why what runs is to be given back: it would cost more than there is before it had been, `ahead_s` from now. Nothing, if it
    would not."""
    bills = list(bills)
    rate = sum(bill.price for bill in bills if bill.ended_us is None)
    for name, limit in (("hour", budget.per_hour), ("day", budget.per_day), ("month", budget.per_month)):
        begin_us, end_us = window(name, now_us)
        so_far = sum(bill.spent(begin_us, now_us) for bill in bills)
        ahead = rate * min(ahead_s * US_PER_S, end_us - now_us) / HOUR_US
        if limit is not None and rate > 0 and so_far + ahead > limit:
            return f"{so_far:.2f} of {limit:g} are spent this {name}"
    return ""


def window(name: str, now_us: int) -> tuple[int, int]:
    """The hour, day or month of UTC that a moment is in: its first moment, and that of the next one."""
    now = datetime.fromtimestamp(now_us / US_PER_S, tz=UTC)
    if name == "hour":
        begin = now.replace(minute=0, second=0, microsecond=0)
        end = begin + timedelta(hours=1)
    elif name == "day":
        begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
        end = begin + timedelta(days=1)
    else:
        begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = (begin + timedelta(days=32)).replace(day=1)
    return int(begin.timestamp()) * US_PER_S, int(end.timestamp()) * US_PER_S
