"""Does a network, as it is kept, answer as the module does that it was made of? Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput
from mlplat.model.build import logits
from mlplat.model.inputs import InputEncoding

Array = np.ndarray[Any, Any]
CHECKED_ROWS = (1, 37)
TOLERANCE = 1e-6
BATCH_TOLERANCE = 1e-5
"""Of 32 bits, summed in another order for another number of rows."""


def sample(encoding: InputEncoding, rows: int) -> tuple[Array, Array]:
    """Made-up input: standard normal numbers float32 [rows, width] and codes int64 [rows, categories], the same every
    time."""
    random = np.random.default_rng(0)
    numeric = random.normal(size=(rows, encoding.width)).astype(np.float32)
    codes = random.integers(0, np.array(encoding.slots, dtype=np.int64), size=(rows, len(encoding.slots)))
    return numeric, codes


def check_same(kept: Callable[..., Any], module: Callable[..., Any], encoding: InputEncoding) -> None:
    """`InvalidInput` if they differ for one row or for many, or if a row's answer depends on the rows beside it."""
    for rows in CHECKED_ROWS:
        inputs = sample(encoding, rows)
        found, wanted = logits(kept, *inputs), logits(module, *inputs)
        if found.shape != wanted.shape or not np.allclose(found, wanted, TOLERANCE, TOLERANCE, equal_nan=True):
            raise InvalidInput(
                f"kept, the network answers {rows} rows otherwise than its module does{_by(found, wanted)}: its forward must "
                "compute the same for any number of rows, without random numbers"
            )
    alone = logits(kept, *(part[:1] for part in inputs))
    if not np.allclose(alone, found[:1], BATCH_TOLERANCE, BATCH_TOLERANCE, equal_nan=True):
        raise InvalidInput(
            f"the network's answer to a row depends on the rows beside it{_by(alone, found[:1])}: let its forward treat each "
            "row by itself when it does not train"
        )


def _by(found: Array, wanted: Array) -> str:
    if found.shape != wanted.shape:
        return f" (shape {found.shape} and not {wanted.shape})"
    return f" (by {np.max(np.abs(found - wanted)):.3g})"
