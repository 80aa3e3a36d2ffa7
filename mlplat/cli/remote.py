"""`mlplat submit`, `attach` and `stop`: work for a cluster, from a machine that is none of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlplat.cli.jobs import DataGb, Each, Priority, amounts, pair
from mlplat.config import environment
from mlplat.errors import InvalidInput

Address = Annotated[
    str | None, typer.Option(help="Of the cluster's dashboard.", show_default="RAY_API_SERVER_ADDRESS, or RAY_ADDRESS")
]
Token = Annotated[
    Path | None, typer.Option(help="The file with the cluster's key.", show_default="RAY_AUTH_TOKEN_PATH")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As submit printed it.")]


def submit(
    script: Annotated[list[str], typer.Argument(metavar="SCRIPT [ARGUMENTS]", help="What Python runs.")],
    home: Annotated[
        str | None, typer.Option(help="As the cluster's machines see it.", show_default="their MLPLAT_HOME")
    ] = None,
    compute: Annotated[str, typer.Option(help='What SCRIPT itself runs on, as in "gpu:4".')] = "cpu:1",
    priority: Priority = "normal",
    tenant: Annotated[str | None, typer.Option(help="For whom.", show_default="MLPLAT_TENANT, or default")] = None,
    working_dir: Annotated[Path, typer.Option(help="The folder that SCRIPT needs; a copy of it is sent.")] = Path(),
    package: Annotated[Each, typer.Option(help="A package that it needs, as pip takes it. May be repeated.")] = None,
    variable: Annotated[Each, typer.Option(metavar="NAME=VALUE", help="Of its environment. May be repeated.")] = None,
    data_gb: DataGb = None,
    address: Address = None,
    token: Token = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print its id and return.")] = False,
) -> None:
    """Send SCRIPT and its folder to a cluster, have it run when the queue has slots, and print what it prints.

    Ctrl-C ends the printing, not the work. The exit code is 0 if the work ended well.
    """
    cluster = _remote(address, token)
    job_id = cluster.submit(
        *script,
        home=home,
        compute=compute,
        priority=priority,
        tenant=tenant or environment().variables.get("MLPLAT_TENANT"),
        working_dir=working_dir,
        packages=package or (),
        variables=dict(map(pair, variable or [])),
        data_gb=amounts(data_gb, "PLACE=GB, as in onprem=800"),
    )
    if detach:
        typer.echo(job_id)
        return
    typer.echo(f"{job_id}: Ctrl-C leaves it running; mlplat attach {job_id}, mlplat stop {job_id}", err=True)
    _follow(cluster, job_id)


def attach(job: JobId, address: Address = None, token: Token = None) -> None:
    """Print what work that was submitted prints, from its beginning until it ends; the exit code is 0 if it ended well."""
    _follow(_remote(address, token), job)


def stop(job: JobId, address: Address = None, token: Token = None) -> None:
    """Have work that was submitted end."""
    _remote(address, token).stop(job)


def _follow(cluster: Any, job_id: str) -> None:
    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        well = cluster.follow(job_id, say)
    except KeyboardInterrupt:
        typer.echo(f"{job_id} goes on: mlplat attach {job_id}", err=True)
        raise typer.Exit(130) from None
    if not well:
        raise typer.Exit(1)


def _remote(address: str | None, token: Path | None) -> Any:
    from mlplat.jobs._ray.remote import Remote

    variables = environment().variables
    found = address or variables.get("RAY_API_SERVER_ADDRESS") or variables.get("RAY_ADDRESS")
    if not found:
        raise InvalidInput(
            "no cluster is named: give --address, as in http://127.0.0.1:8265, or set RAY_API_SERVER_ADDRESS"
        )
    return Remote(found, token)
