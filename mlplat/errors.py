"""Every error that mlplat raises on purpose.

The class says what the caller does next; the message says what was wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class MlplatError(Exception):
    """The root. Catch it to catch everything that mlplat raises on purpose."""


class InvalidInput(MlplatError):
    """Something that the caller gave is wrong. Correct it and call again; nothing was changed."""


class NotFound(MlplatError):
    """A name is not known here. The message lists the near ones."""


class Refused(MlplatError):
    """The request is well formed, and a rule forbids it. The message names the rule and what to do instead."""


class NotYetAvailable(MlplatError):
    """Wanted, designed, and not in this release. Use what the message offers."""


class Unavailable(MlplatError):
    """A store or service did not answer. Try again; if it goes on, look at the service that the message names."""


class Corrupt(MlplatError):
    """Stored bytes are not what was written. Restore them from a copy; mlplat will not use them."""


class UserCodeError(MlplatError):
    """Code of the user raised. The message names the file, the line and what it was given."""


class Conflict(MlplatError):
    """Another writer was first. Read again and retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a batch or a request.

    `field` is the column or JSON field; `rows` are the first positions (0-based) that have it, `count` how many rows do.
    """

    field: str
    message: str
    rows: tuple[int, ...] = ()
    count: int = 0

    def __str__(self) -> str:
        if not self.count:
            return f"{self.field}: {self.message}"
        shown = ", ".join(str(row) for row in self.rows) + (", ..." if self.count > len(self.rows) else "")
        return f"{self.field}: {self.message} ({self.count} rows: {shown})"


class BatchRefused(InvalidInput):
    """A batch has bad rows and was refused whole: the table is unchanged. `problems` names columns and rows."""

    def __init__(self, target: str, problems: Sequence[Problem]) -> None:
        self.target = target
        self.problems = tuple(problems)
        super().__init__(
            f"{target} refused the batch and is unchanged:\n" + "\n".join(f"  {problem}" for problem in problems)
        )


class ParityError(InvalidInput):
    """A view gives different features for the same rows, depending on how they are batched. Make it depend on its rows alone."""


def unknown(kind: str, name: str, known: Iterable[str], *, remedy: str = "") -> NotFound:
    """The error for a wrong name: says which names are near, or which exist."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?"
    elif names:
        hint = f" Known: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}."
    else:
        hint = f" There is no {kind} yet."
    return NotFound(f"There is no {kind} {name!r}.{hint}{' ' + remedy if remedy else ''}")
