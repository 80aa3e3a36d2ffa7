"""`mlplat jobs`: the queue for the machines of a cluster."""

from __future__ import annotations

import json as jsons
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlplat.cli.opened import Home, Json, opened, say_json
from mlplat.clock import US_PER_S, SystemClock
from mlplat.errors import InvalidInput, Refused
from mlplat.features.definitions import duration_us
from mlplat.jobs.job import Tenant
from mlplat.jobs.rules import POOL

if TYPE_CHECKING:
    from mlplat.platform import Platform

app = typer.Typer(help="The queue for the machines of a cluster, and who gets what of them.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Priority = Annotated[str, typer.Option(help="production, normal, explore or idle.")]
PoolName = Annotated[str, typer.Option("--pool", help="Which machines.")]
Each = list[str] | None
DataGb = Annotated[Each, typer.Option(metavar="PLACE=GB", help="Data that it reads from there. May be repeated.")]
LOOK_S, ENDED = 0.5, {"done", "failed", "cancelled"}


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="What to run, as in: python train.py --lr 1e-3")
    ],
    compute: Annotated[str, typer.Option(help='What it needs, as in "gpu:1"; or JSON, as in {"FPGA": 1}.')] = "cpu:1",
    name: Annotated[str | None, typer.Option(help="What to call it.", show_default="the command")] = None,
    priority: Priority = "normal",
    tenant: Annotated[str | None, typer.Option(help="For whom.", show_default="MLPLAT_TENANT, or default")] = None,
    pool: PoolName = POOL,
    package: Annotated[Each, typer.Option(help="A package that it needs, as pip takes it. May be repeated.")] = None,
    variable: Annotated[Each, typer.Option(metavar="NAME=VALUE", help="Of its environment. May be repeated.")] = None,
    image: Annotated[str | None, typer.Option(help="The container image that it runs in.")] = None,
    data_gb: DataGb = None,
    keeps: Annotated[
        bool, typer.Option("--keeps", help="It keeps its slots until it ends, whoever else waits.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended, with 0 if it ended well.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print what it prints until it has ended; it ends with this.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Queue COMMAND, to be run here (in this folder) on the cluster, and print the job's id.

    It is recorded in the home: where no cluster runs for that now, the next one takes it.
    """
    with opened(home, tenant=tenant, make=True) as platform:
        jobs = platform.jobs
        job_id = jobs.submit(
            command,
            compute=jsons.loads(compute) if compute.startswith("{") else compute,
            env={"packages": package or [], "image": image, "variables": dict(map(pair, variable or []))},
            start=False,
            priority=priority,
            pool=pool,
            preemptible=not keeps,
            data_gb=amounts(data_gb, "PLACE=GB, as in onprem=800"),
            name=name or Path(command[0]).name,
        )
        found = followed(platform, job_id) if follow else jobs.wait(job_id) if wait else jobs.get(job_id)
    ends = wait or follow
    if json:
        say_json(found)
    else:
        typer.echo(job_id if not ends else f"{job_id} {found['state']}{_because(found)}", err=follow)
    if ends and found["state"] != "done":
        raise typer.Exit(1)


def followed(platform: Platform, job_id: str) -> dict[str, Any]:
    """Print what the job prints, and what it waits for, until it has ended. If this process is to end before, so is the job."""
    pause, said, read = Event(), "", dict[Path, int]()
    try:
        while True:
            found = platform.jobs.get(job_id)
            if found["state"] == "queued" and found["reason"] != said:
                said = found["reason"]
                typer.echo(f"{job_id} waits: {said}", err=True)
            for file in sorted((platform.home / "jobs" / job_id).glob("*.log"), key=_order):
                with file.open("rb") as log:
                    log.seek(read.get(file, 0))
                    sys.stdout.write(log.read().decode(errors="replace"))
                    read[file] = log.tell()
            sys.stdout.flush()
            if found["state"] in ENDED:
                return found
            pause.wait(LOOK_S)
    except BaseException:
        platform.jobs.cancel(job_id)
        raise


@app.command()
def start(home: Home = None) -> None:
    """Have the queue go on, on the cluster that MLPLAT_RAY or RAY_ADDRESS names: after a new one was started."""
    with opened(home) as platform:
        if not platform.jobs.runs():
            raise Refused("no cluster runs for this home that could be joined: set MLPLAT_RAY to its address")
        platform.jobs.start()


@app.command("list")
def list_jobs(
    ended: Annotated[int, typer.Option(help="How many that have ended to show.")] = 10,
    home: Home = None,
    json: Json = False,
) -> None:
    """List the jobs: who waits, and for what; who runs; and the last that have ended."""
    with opened(home) as platform:
        found = platform.jobs.list(ended=ended).to_dicts()
    if json:
        say_json(found)
        return
    for row in found:
        asked = f"{row['tenant']:10} {row['priority']:10} {row['compute']:12}"
        typer.echo(f"{row['id']}  {row['state']:9} {asked} {row['name']}{_because(row)}")


@app.command()
def show(job: JobId, home: Home = None, json: Json = False) -> None:
    """Show all that is known of a job: why it waits, or how it ended."""
    with opened(home) as platform:
        found = platform.jobs.get(job)
    if json:
        say_json(found)
        return
    for name, value in found.items():
        if value not in (None, ""):
            typer.echo(f"{name:10} {value}")


@app.command()
def logs(job: JobId, home: Home = None) -> None:
    """Print what a job's command has printed, of all its leases and workers on this machine."""
    with opened(home) as platform:
        platform.jobs.get(job)
        files = sorted((platform.home / "jobs" / job).glob("*.log"), key=_order)
    for file in files:
        if len(files) > 1:
            typer.echo(f"== lease {file.name.split('.')[0]}, worker {file.name.split('.')[1]}")
        with file.open(errors="replace") as lines:
            sys.stdout.writelines(lines)


@app.command()
def cancel(job: JobId, home: Home = None) -> None:
    """Have a job end: one that runs is asked to stop first."""
    with opened(home) as platform:
        platform.jobs.cancel(job)


@app.command()
def reprioritise(
    job: JobId, priority: Annotated[str, typer.Argument(help="production, normal, explore or idle.")], home: Home = None
) -> None:
    """Give a job another priority."""
    with opened(home) as platform:
        platform.jobs.reprioritise(job, priority)


@app.command()
def tenant(
    name: Annotated[str, typer.Argument(help="A person, a team, a project.")],
    weight: Annotated[float, typer.Option(help="Of its share, beside those of others.")] = 1.0,
    quota: Annotated[
        Each, typer.Option(metavar="RESOURCE=AMOUNT", help="What it gets before others get more than theirs.")
    ] = None,
    limit: Annotated[Each, typer.Option(metavar="RESOURCE=AMOUNT", help="What it never exceeds.")] = None,
    pool: PoolName = POOL,
    home: Home = None,
) -> None:
    """Set what a tenant gets of a pool. What it was before is replaced; its other pools stay."""
    form = "RESOURCE=AMOUNT, as in GPU=4"
    with opened(home) as platform:
        before = platform.jobs.rules().tenants.get(name, Tenant(name=name))
        platform.jobs.set_tenant(
            replace(
                before,
                weight=weight,
                quota={**before.quota, pool: amounts(quota, form)},
                limit={**before.limit, pool: amounts(limit, form)},
            )
        )


@app.command()
def rules(
    grace: Annotated[str | None, typer.Option(help="How long a job may take to stop, as in 30s.")] = None,
    half_life: Annotated[
        str | None, typer.Option(help="In which half of what was used is forgotten, as in 4h.")
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show who shares, what is shared, and how; or change it."""
    with opened(home) as platform:
        found = platform.jobs.rules()
        if grace is not None:
            found = replace(found, grace_s=duration_us(grace) / US_PER_S)
        if half_life is not None:
            found = replace(found, half_life_s=duration_us(half_life) / US_PER_S)
        if (grace, half_life) != (None, None):
            platform.jobs.set_rules(found)
    said = {**found.to_json(), "tenants": {one.name: _said(one) for one in found.tenants.values()}}
    if json:
        say_json(said)
    else:
        typer.echo(jsons.dumps(said, indent=2))


@app.command()
def usage(
    since: Annotated[str | None, typer.Option(help="Of the last, as in 7d.", show_default="of all time")] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show how many hours of each resource tenants have had."""
    with opened(home) as platform:
        found = platform.jobs.usage(since=_since(since)).to_dicts()
    if json:
        say_json(found)
        return
    for row in found:
        typer.echo(f"{row['tenant']:16} {row['resource']:10} {row['hours']:12.2f} h")


@app.command()
def draw(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to write: .png, .svg or .pdf.")],
    since: Annotated[str | None, typer.Option(help="Of the last, as in 1d.", show_default="of all time")] = None,
    home: Home = None,
) -> None:
    """Draw who held how many workers when."""
    with opened(home) as platform:
        typer.echo(platform.jobs.draw(file, since=_since(since)))


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    return datetime.fromtimestamp((SystemClock().now_us() - duration_us(text)) / US_PER_S, tz=UTC)


def _said(tenant: Tenant) -> dict[str, Any]:
    return {"weight": tenant.weight, "quota": tenant.quota, "limit": tenant.limit}


def _because(row: dict[str, Any]) -> str:
    return f": {row['reason']}" if row["reason"] else ""


def _order(path: Path) -> list[int]:
    return [int(part) for part in path.name.split(".")[:2]]


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"{text!r}: write NAME=VALUE")
    return name, value


def amounts(texts: Each, form: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in map(pair, texts or [])}
    except ValueError:
        raise InvalidInput(f"{', '.join(texts or [])}: write {form}") from None
