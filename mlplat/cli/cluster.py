"""`mlplat cluster`: the YAML of a cluster, before an operator launches it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlplat.cluster.check import checked
from mlplat.cluster.spec import NodeType
from mlplat.errors import InvalidInput

app = typer.Typer(help="The YAML of a cluster, before it is launched.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Keeps `check` a command of its own: typer makes the only one of an app the app itself."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML of a cluster with mlplat's provider.")],
    running: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE=COUNT", help="How many nodes of a type run now: no limit may be below. May be repeated."
        ),
    ] = None,
) -> None:
    """Say what is wrong in FILE, line by line; or, if nothing is, which machines it is about."""
    spec = checked(file, dict(map(_count, running or [])))
    table = Table("type", "machines", "at most", "where", "per hour", box=None)
    for kind in spec.types.values():
        if kind.name != spec.head:
            table.add_row(kind.name, *_row(kind))
    Console().print(f"{spec.cluster}: nothing is wrong", table)
    limits = {name: limit for name in spec.budget.__slots__ if (limit := getattr(spec.budget, name)) is not None}
    typer.echo(f"budget: {', '.join(f'{name} {limit:g}' for name, limit in limits.items()) or 'no limit'}")


def _row(kind: NodeType) -> tuple[str, str, str, str]:
    if not kind.offers:
        return "own", str(kind.max_workers), ", ".join(kind.hosts), ""
    names = [offer.name or offer.site for offer in kind.offers]
    return "bought", str(kind.max_workers), ", then ".join(names), ", ".join(f"{o.price:g}" for o in kind.offers)


def _count(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdigit():
        raise InvalidInput(f"--running {text}: give TYPE=COUNT, as in cloud.gpu=3")
    return name, int(count)
