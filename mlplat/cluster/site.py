"""Where machines are, or are bought: the port that each kind of site implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlplat.errors import MlplatError

LAUNCH = "mlplat-launch"
"""The tag by which a site knows which call asked for a machine."""


class NoCapacity(MlplatError):
    """The site has none of what was asked for now. Nothing was made; ask for something else, or later."""


class Unknown(MlplatError):
    """The site did not answer, and may have made machines or not: `Site.machines` tells later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A machine as its site sees it."""

    tags: Mapping[str, str] = field(default_factory=dict)
    running: bool = True


class Site(Protocol):
    """For several threads. Tags are kept with the machine, and survive whoever set them."""

    def machines(self) -> Mapping[str, Seen]:
        """All of this cluster that have not ended, by their names. Raises `Unavailable` if the site does not answer."""

    def create(self, node: Mapping[str, Any], tags: Mapping[str, str], count: int) -> Sequence[str]:
        """Their names. They may be fewer than asked for, or not run yet. Raises `NoCapacity` if there is none, `Unavailable` or
        `InvalidInput` if none was made, `Unknown` if that is not known."""

    def terminate(self, names: Sequence[str]) -> None:
        """They end, and cost nothing from then on. Who is gone stays so. Raises `Unavailable`: then some may go on."""

    def address(self, name: str) -> str:
        """By which other nodes reach it. Raises `Unavailable` while it has none."""

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """Add tags to a machine's."""
