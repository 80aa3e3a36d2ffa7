"""Ctrl-C, in a process that has loaded polars."""

from __future__ import annotations

import signal


def heed() -> None:
    """Let Ctrl-C wake what waits: for a lock, a thread's result, a child.

    As it is imported, polars (2.1) puts a handler before that of Python which has the kernel go on with the call that it
    interrupted, so that nobody heeds Ctrl-C before such a wait is over (github.com/pola-rs/polars/issues/21739).
    """
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003
