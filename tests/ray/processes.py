"""Processes by what their command line says, of this test process alone: another may run other tests beside it."""

from __future__ import annotations

import psutil


def below(*words: str) -> list[psutil.Process]:
    """Those that this process started, or that they did, whose command line has all the words."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:  # it ended just now
            continue
        if all(word in line for word in words):
            found.append(process)
    return found
