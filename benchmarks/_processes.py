"""The processes that this one started, themselves or through others, by what they do."""

from __future__ import annotations

from contextlib import suppress

import psutil


def below(word: str) -> list[psutil.Process]:
    """Those with the word in their command line, where Ray has the name of an actor's class."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found
