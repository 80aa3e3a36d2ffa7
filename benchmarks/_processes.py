"""The processes that this one started, themselves or through others, by what they do."""

from __future__ import annotations

from contextlib import suppress

import psutil


def below(*words: str) -> list[psutil.Process]:
    """Those with the words in their command line, where Ray has the name of an actor's class."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            line = " ".join(process.cmdline())
            if all(word in line for word in words):
                found.append(process)
    return found
