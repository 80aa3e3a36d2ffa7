"""Who gets a core first where they are few: what answers callers, before what makes rows or learns."""

from __future__ import annotations

import os
from contextlib import suppress

_BACKGROUND = 15


def in_background() -> None:
    """This process computes for nobody who waits: from now on it gets what others leave of the cores. For actors alone, whose
    processes end with them: nobody may take it back."""
    with suppress(OSError, AttributeError):  # AttributeError: no POSIX system
        os.setpriority(os.PRIO_PROCESS, 0, max(_BACKGROUND, os.getpriority(os.PRIO_PROCESS, 0)))
