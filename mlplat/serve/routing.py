"""Which arm answers which unit. Pure: the same table gives the same arm on every replica and after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from mlplat.errors import InvalidInput

GOLD = "gold"
TINY = 1e-12
Ranges = tuple[tuple[float, float], ...]
"""Of the hash, from each to below each: apart from one another, in the order in which an arm got them."""
_FULL = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A share of the units, answered by one version of the model; of a mirror, the share that it is shown. `ranges` are those of
    the hash that are its own; none: the table has them follow one another."""

    name: str
    version: int
    share: float
    ranges: Ranges = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTable:
    """Who answers what, as of `epoch`. Never changed: a new table with a higher epoch takes its place.

    Gold comes first and gets what the other arms leave. What an arm had stays its own as it grows (`with_share`), so that its
    1 % of the units is inside its later 10 %, whatever other arms do. `salt` makes the arms of one name independent of
    another's.
    `mirrors` are shadows: they are shown what all arms are asked, and answer nobody.
    """

    epoch: int
    salt: str
    arms: tuple[Arm, ...]
    mirrors: tuple[Arm, ...] = ()

    def __post_init__(self) -> None:
        if not self.arms or self.arms[0].name != GOLD:
            raise InvalidInput("a routing table begins with the arm 'gold'")
        if (
            any(not 0.0 <= arm.share <= 1.0 for arm in self.arms)
            or abs(sum(arm.share for arm in self.arms) - 1.0) > 1e-9
        ):
            raise InvalidInput("the shares of a routing table are between 0 and 1 and sum to 1")
        names = [arm.name for arm in (*self.arms, *self.mirrors)]
        if len(set(names)) < len(names):
            raise InvalidInput(f"two arms of a routing table have one name: {', '.join(sorted(names))}")

    @property
    def versions(self) -> frozenset[int]:
        """All that have to be ready."""
        return frozenset(arm.version for arm in (*self.arms, *self.mirrors))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The arm of one unit, and how probable that arm was."""

    arm: Arm
    propensity: float


def assign(table: RoutingTable, unit: str) -> Assignment:
    point = position(table.salt, unit)
    reached = 0.0
    for arm in table.arms[1:]:
        ranges = arm.ranges or ((reached, reached + arm.share),)
        reached += arm.share
        if any(low <= point < high for low, high in ranges):
            return Assignment(arm=arm, propensity=arm.share)
    return Assignment(arm=table.arms[0], propensity=table.arms[0].share)


def with_share(own: Ranges, share: float, others: Sequence[Ranges]) -> Ranges:
    """The ranges of an arm that is to have `share`: what it had, less what it got last, or more of what nobody has, the lowest
    first. `InvalidInput` if less than that is left."""
    left, kept = share, []
    for low, high in own:
        if left > TINY:
            kept.append((low, min(high, low + left)))
            left -= kept[-1][1] - low
    taken = sorted(r for ranges in (tuple(kept), *others) for r in ranges)
    begin = 0.0
    for low, high in (*taken, (1.0, 1.0)):
        if left > TINY and low - begin > TINY:
            kept.append((begin, min(low, begin + left)))
            left -= kept[-1][1] - begin
        begin = max(begin, high)
    if left > 1e-9:
        raise InvalidInput(f"share={share:g}: other experiments have all but {share - left:g} of the units")
    return tuple(kept)


def assign_all(table: RoutingTable, units: Sequence[str]) -> list[Assignment]:
    """`assign` for each unit; with one arm there is nothing to hash."""
    if len(table.arms) == 1:
        return [Assignment(arm=table.arms[0], propensity=1.0)] * len(units)
    return [assign(table, unit) for unit in units]


def position(salt: str, unit: str) -> float:
    """A point in [0, 1) that depends on nothing but the salt and the unit."""
    digest = blake2b(unit.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return (int.from_bytes(digest, "big") >> 11) / (_FULL >> 11)
