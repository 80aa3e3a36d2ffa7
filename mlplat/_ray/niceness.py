"""Who gets a core first where they are few: what answers callers, before what makes rows or learns."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

_BACKGROUND = 15


def in_background() -> None:
    """This process computes for nobody who waits: from now on it gets what others leave of the cores. For actors alone, whose
    processes end with them: nobody may take it back."""
    for thread in psutil.Process().threads():  # Linux keeps it by thread: those that are there do not follow
        with suppress(OSError, AttributeError):  # it has ended; AttributeError: no POSIX system
            os.setpriority(os.PRIO_PROCESS, thread.id, max(_BACKGROUND, os.getpriority(os.PRIO_PROCESS, thread.id)))
