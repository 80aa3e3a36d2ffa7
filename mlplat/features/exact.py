"""Correctly rounded sums of many stretches of one array, without a loop over them.

A float64 is a whole number times a power of two, so an array whose exponents lie near one another holds whole numbers
of one unit. Each is cut into limbs of 32 bits; the limbs' running totals are exact in 64 bits for up to 2**31 values,
and so are the differences of two of them. The limbs of a stretch then give its sum, which is rounded once, to nearest,
ties to even. This is a superaccumulator (Kulisch, Computer Arithmetic and Validity, 2013) over prefix sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LIMB = 32
MASK = np.int64(2**LIMB - 1)
MANTISSA = 53
MOST_LIMBS = 12
"""Beyond (exponents about 330 bits apart) the totals would take more memory than a loop takes time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """Running totals of the limbs, lowest first, with a leading 0: `totals[j][i]` sums limb j of the first i values. The unit is
    `2**exponent`; the highest limb is signed and wide enough for every total."""

    totals: tuple[Ints, ...]
    exponent: int

    @classmethod
    def of(cls, values: Floats) -> FixedPoint | None:
        """None if the exponents of the (finite) values lie too far apart."""
        fraction, exponent = np.frexp(values)
        used = exponent[fraction != 0]
        lowest = int(used.min()) if len(used) else 0
        span = int(used.max()) - lowest if len(used) else 0
        # A limb above the highest bit takes the carries of 2**31 values and the sign.
        count = (span + MANTISSA) // LIMB + 2
        if count > MOST_LIMBS:
            return None
        mantissa = np.ldexp(fraction, MANTISSA).astype(np.int64)
        shift = np.where(fraction != 0, exponent - lowest, 0).astype(np.int64)
        limbs = _limbs(mantissa, shift, count)
        totals = tuple(np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(limb))) for limb in limbs)
        return cls(totals=totals, exponent=lowest - MANTISSA)

    def sums(self, lo: Ints, hi: Ints) -> Floats:
        """The sum of values [lo[i], hi[i]) for each i, as `math.fsum` gives it; infinite beyond the largest float."""
        limbs, negative = _magnitude([total[hi] - total[lo] for total in self.totals])
        rounded = _round(limbs, self.exponent)
        return np.where(negative, -rounded, rounded)


def _limbs(mantissa: Ints, shift: Ints, count: int) -> list[Ints]:
    """Whole numbers `mantissa << shift` as limbs: each from 0 to 2**32 - 1, but for the ones at the top of a number."""
    low, high = mantissa & MASK, mantissa >> LIMB
    limb, bits = shift // LIMB, shift % LIMB
    low, high = low << bits, high << bits
    parts = (low & MASK, (low >> LIMB) + (high & MASK), high >> LIMB)
    found = [np.zeros(len(mantissa), dtype=np.int64) for _ in range(count)]
    for j in range(count):
        for offset, part in enumerate(parts):
            if j >= offset:
                at = limb == j - offset
                found[j][at] += part[at]
    return found


def _magnitude(limbs: list[Ints]) -> tuple[list[Ints], npt.NDArray[np.bool_]]:
    """Carried limbs from 0 to 2**32 - 1 of the absolute values, lowest first, and where the sign is negative."""
    carried, top = _carry(limbs)
    negative = top < 0
    sign = np.where(negative, np.int64(-1), np.int64(1))
    carried, top = _carry([limb * sign for limb in (*carried, top)])
    return [*carried, top & MASK], negative


def _carry(limbs: list[Ints]) -> tuple[list[Ints], Ints]:
    carry = np.zeros_like(limbs[0])
    done: list[Ints] = []
    for limb in limbs[:-1]:
        whole = limb + carry
        done.append(whole & MASK)
        carry = whole >> LIMB
    return done, limbs[-1] + carry


def _round(limbs: list[Ints], exponent: int) -> Floats:
    """The limbs as floats, rounded to nearest, ties to even."""
    stack = np.stack(
        [np.zeros_like(limbs[0]), np.zeros_like(limbs[0]), *limbs]
    )  # two below, so that three are always there
    position = np.arange(len(stack))[:, None]
    highest = np.where(stack != 0, position, 2).max(axis=0)
    columns = np.arange(stack.shape[1])
    first, second, third = (stack[highest - i, columns].astype(np.uint64) for i in range(3))
    below = np.where(position < highest - 2, stack, 0).any(axis=0)
    # Bring the highest bit to the top of 64, from the 96 that are at hand.
    lead = np.uint64(LIMB) - np.frexp(first.astype(np.float64))[1].astype(np.uint64)
    lead = np.where(first == 0, np.uint64(0), lead)
    word = (first << np.uint64(LIMB) | second) << lead | third >> (np.uint64(LIMB) - lead)
    sticky = below | ((third << lead & np.uint64(MASK)) != 0)
    drop = np.uint64(64 - MANTISSA)
    kept, rest = word >> drop, word & np.uint64(2 ** (64 - MANTISSA) - 1)
    half = np.uint64(2 ** (63 - MANTISSA))
    up = (rest > half) | ((rest == half) & (sticky | (kept & np.uint64(1)).astype(bool)))
    scale = exponent + LIMB * (highest - 3) - lead.astype(np.int64) + int(drop)
    with np.errstate(over="ignore"):
        result: Floats = np.ldexp((kept + up).astype(np.float64), scale)
    return result
