"""`mlplat cluster`: the YAML of a cluster, before an operator launches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from threading import Event
from time import sleep
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mlplat import interrupts
from mlplat.clock import US_PER_S, SystemClock
from mlplat.cluster import guard as guards
from mlplat.cluster.certificates import NODES, networks, write
from mlplat.cluster.check import checked, read
from mlplat.cluster.hosts import answers
from mlplat.cluster.rehearsal import rehearsal
from mlplat.cluster.shards import simulate as simulated
from mlplat.cluster.spec import NodeType
from mlplat.cluster.trace import read as trace_of
from mlplat.cluster.world import Arrival, Outcome, Settings
from mlplat.errors import InvalidInput

EVERY_S, END_S = 5.0, 600.0
app = typer.Typer(
    help="Clusters that buy machines: their YAML before it is launched, and what runs on the machines.",
    no_args_is_help=True,
)


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


@app.command()
def certificates(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML of a cluster with mlplat's provider.")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of yours alone; FOLDER/nodes goes to the machines.")
    ],
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK", help="Where bought machines get addresses, as in 10.0.0.0/24. May be repeated."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How long they are valid.")] = 365,
    renew: Annotated[
        bool, typer.Option("--renew", help="By the authority in FOLDER, in place of those there.")
    ] = False,
) -> None:
    """Make what the machines of FILE need to know each other and to encrypt what Ray's processes say: an authority, and a
    certificate that lists their addresses. The authority's key, FOLDER/ca.key, is for no machine."""
    spec, now = checked(file), datetime.fromtimestamp(SystemClock().now_us() / US_PER_S, tz=UTC)
    given = networks(spec, network or [])
    end = write(folder, spec.cluster, given, days=days, renew=renew, now=now)
    typer.echo(f"file_mounts: {{~/mlplat/tls: {folder / NODES}}}")
    typer.echo(f"they end on {end:%Y-%m-%d %H:%M} UTC: before that give the same command with --renew, and ray up")


@app.command()
def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML of a cluster with mlplat's provider.")],
    trace: Annotated[
        Path, typer.Option(metavar="CSV", help="Jobs: at_s, bundles, work_s, GPU or CPU of a bundle, data_gb, data_at.")
    ],
    boot_s: Annotated[float, typer.Option(help="Seconds until a bought machine is a node.")] = Settings().boot_s,
    shards: Annotated[
        int, typer.Option(help="Try a large cluster in so many parts, on all cores: about, and sooner.", min=1)
    ] = 1,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw who held what when: a .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Try FILE on the jobs of a CSV, with Ray's own autoscaler under a simulated clock: as FILE says, without moving work back,
    buying at once, and, if FILE says what egress costs, as if nobody knew where data is."""
    spec, given, arrivals = checked(file), read(file), trace_of(trace)
    if not arrivals:
        raise InvalidInput(f"{trace} has no jobs")
    rules = {
        "as the file says": (given, True),
        "work stays where it is": (_bursting(given, back=False), True),
        "buys at once": (_bursting(given, wait_s=0.0, back=False), False),
    }
    if spec.cloud.egress:
        rules["without a look at data"] = (given, False)
    columns = ("rule", "cost", "GPU-hours bought", "mean wait", "mean time to the end", "moves")
    parts = f", in {shards} shards" if shards > 1 else ""
    table = Table(*columns, box=None, title=f"{len(arrivals)} jobs on {spec.cluster}{parts}")
    outcomes: dict[str, Outcome] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("shards" if shards > 1 else "rules", total=len(rules) * shards)
        for rule, (config, looks) in rules.items():
            found = simulated(
                config,
                arrivals,
                looks_at_data=looks,
                shards=shards,
                processes=psutil.cpu_count() or 1,
                settings=Settings(boot_s=boot_s),
                done=lambda: progress.advance(task),
            )
            outcomes[rule] = found
            table.add_row(rule, *_came_of(found, arrivals))
    Console().print(table)
    if plot is not None:
        from mlplat.cluster.picture import draw

        typer.echo(draw(outcomes, plot))


@app.command()
def rehearse(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML of a cluster with mlplat's provider.")],
    boot_s: Annotated[float, typer.Option(help="Seconds until a bought machine boots.")] = 0.0,
) -> None:
    """Start FILE's cluster on this machine alone, until Ctrl-C: its machines are folders, its GPUs are numbers, and all else is
    as it will be. Commands that install something are left out."""
    interrupts.heed()
    checked(file)
    with (
        TemporaryDirectory(prefix="mlc-", dir="/tmp") as folder,
        rehearsal(file, Path(folder), boot_s=boot_s) as cluster,
    ):
        for name, value in cluster.environment.items():
            typer.echo(f"export {name}={value}")
        typer.echo(f"export RAY_API_SERVER_ADDRESS={cluster.dashboard}  # for mlplat submit")
        typer.echo(f"its machines are under {folder}; Ctrl-C ends it")
        Event().wait()


@app.command()
def guard(
    head: Annotated[str, typer.Option(help="The address of the head.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of Ray on the head.")] = 6379,
    lease: Annotated[float, typer.Option(help="Minutes of silence of the head after which the machine ends.")] = 50.0,
    cloud: Annotated[
        str | None, typer.Option(help="Whose notices of spot machines are heard: aws, gcp or azure.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(help="On a head instead: minutes in which nobody works, after which it ends.")
    ] = None,
    end: Annotated[str, typer.Option(help="The command that ends the machine.")] = "shutdown -h now",
) -> None:
    """Run on a bought machine, beside Ray: end it when its head is silent for long, and have its work moved when the cloud is
    about to take it away. With --idle, run on the head of a cluster that was started for one piece of work."""
    for name, value in (("--lease", lease), ("--idle", idle)):
        if value is not None and not value > 0:
            raise InvalidInput(f"{name} {value:g}: must be above 0")
    clock, address = SystemClock(), f"{head}:{port}"
    alive = answers(port)

    def ends() -> bool:
        if idle is not None:
            from mlplat.cluster._ray.gather import let_go

            let_go(address)
        return guards.ran(["sh", "-c", end], timeout_s=END_S)

    def works() -> bool:
        from mlplat.cluster._ray.gather import works

        return works(address)

    guards.run(
        heard=(lambda: alive(head)) if idle is None else works,
        lease_s=(lease if idle is None else idle) * 60,
        every_s=EVERY_S,
        notice=guards.notice_of(cloud, clock),
        drain=lambda seconds: guards.drained(head, port, seconds),
        end=ends,
        clock=clock,
        wait=sleep,
    )


@app.command()
def gather(
    gpus: Annotated[float, typer.Option(help="In all.")] = 0,
    cpus: Annotated[float, typer.Option(help="In all.")] = 0,
    wait: Annotated[float, typer.Option(help="The longest, in seconds.")] = 1_800.0,
) -> None:
    """Run on the head: have the cluster grow to so much, and return when that is there."""
    from mlplat.cluster._ray.gather import gather

    wanted = {name: amount for name, amount in (("GPU", gpus), ("CPU", cpus)) if amount}
    gather(wanted, wait_s=wait, clock=SystemClock(), wait=sleep, say=typer.echo)


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML of a RayCluster of KubeRay.")],
    wait: Annotated[float, typer.Option(help="How long Ray may take to come up, in seconds.")] = 120.0,
) -> None:
    """Run on the head of a cluster on Kubernetes, after each start of it: tell the queue of jobs which nodes are own, and which
    cost. Elsewhere mlplat's provider does that."""
    from mlplat.cluster._ray.gather import told
    from mlplat.cluster._ray.kuberay import cloud_of

    cloud = cloud_of(read(file))
    told(cloud, wait_s=wait, clock=SystemClock(), wait=sleep)
    names = {"own": cloud.own, "bought": cloud.kinds}
    typer.echo("; ".join(f"{name}: {', '.join(kind.name for kind in kinds)}" for name, kinds in names.items()))


def _came_of(found: Outcome, arrivals: Sequence[Arrival]) -> tuple[str, ...]:
    def minutes(until_us: Mapping[str, int]) -> str:
        return f"{mean(until_us[one.job.id] - one.job.submitted_us for one in arrivals) / US_PER_S / 60:,.1f} min"

    return (
        f"{found.cost:,.2f}",
        f"{found.gpu_hours:,.1f}",
        minutes(found.began_us),
        minutes(found.ended_us),
        str(found.moved),
    )


def _bursting(config: Mapping[str, Any], **burst: Any) -> dict[str, Any]:
    """The YAML with other words on when work goes to bought machines."""
    provider = config["provider"]
    return {**config, "provider": {**provider, "burst": {**provider.get("burst", {}), **burst}}}


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
