"""Who gets a core first where they are few: what answers callers, before what makes rows or learns."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import psutil

_BACKGROUND = 15


def in_background() -> None:
    """This process computes for nobody who waits: from now on it gets little where others want the cores. For actors alone, whose
    processes end with them: nobody may take it back."""
    for thread in psutil.Process().threads():  # Linux keeps it by thread: those that are there do not follow
        with suppress(OSError, AttributeError):  # it has ended; AttributeError: no POSIX system
            os.setpriority(os.PRIO_PROCESS, thread.id, max(_BACKGROUND, os.getpriority(os.PRIO_PROCESS, thread.id)))


def last_of_all() -> None:
    """As `in_background`, but it gets only what nobody else wants of the cores, in Linux' own class for that."""
    in_background()
    for thread in psutil.Process().threads():
        with suppress(OSError, AttributeError):
            os.sched_setscheduler(thread.id, os.SCHED_IDLE, os.sched_param(0))


def thread_in_background() -> None:
    """As `in_background`, of the calling thread alone: for one that ends with its work, in a process that others wait for."""
    with suppress(OSError, AttributeError):
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, max(_BACKGROUND, os.getpriority(os.PRIO_PROCESS, own)))
