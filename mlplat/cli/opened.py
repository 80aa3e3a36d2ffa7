"""What all commands have in common: the home, and JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from mlplat.config import load
from mlplat.errors import NotFound

if TYPE_CHECKING:
    from mlplat.platform import Platform

Home = Annotated[str | None, typer.Option(help="The home (default: MLPLAT_HOME, or .mlplat).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout, for programs.")]


@contextmanager
def opened(home: str | None, *, tenant: str | None = None, make: bool = False) -> Iterator[Platform]:
    """A home that is there, or is to be made."""
    settings = load(home=home)
    if not make and not settings.home_path.is_dir():
        raise NotFound(f"There is no home at {settings.home_path}. Name one with --home or MLPLAT_HOME.")
    from mlplat.platform import connect

    with connect(settings.home, tenant=tenant) as platform:
        yield platform


def say_json(value: object) -> None:
    typer.echo(orjson.dumps(value).decode())
