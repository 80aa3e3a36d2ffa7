"""The command line: arguments in, exit code out. 0 is success, 2 a mistake in what was given, 1 anything else."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import asdict
from typing import Annotated

import typer

from mlplat.cli import cluster, jobs, remote, report, script
from mlplat.cli.opened import Home, Json, opened, say_json
from mlplat.clock import SystemClock
from mlplat.config import environment, load
from mlplat.errors import InvalidInput, MlplatError, NotFound, NotYetAvailable, Refused

INPUT_ERRORS = (InvalidInput, NotFound, Refused, NotYetAvailable)
INTERRUPTED = 130
LISTEN_S = 0.5

app = typer.Typer(
    help="mlplat: a machine-learning platform that is a Python library.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SHOWN = 20
"""Trials, of a leaderboard."""

token = typer.Typer(help="The tokens of an endpoint's callers.", no_args_is_help=True)
app.add_typer(token, name="token")
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")
app.command(context_settings={"allow_interspersed_args": False})(remote.submit)
app.command()(remote.attach)
app.command()(remote.stop)

Model = Annotated[str, typer.Argument(help="A name, which stands for its gold version, or NAME@VERSION.")]
Endpoint = Annotated[str, typer.Argument(metavar="NAME", help="The name that is, or will be, served.")]


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="SCRIPT", help="A file, or a module such as examples.flights.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Run SCRIPT with the arguments behind it, on this home. Its exit code is passed on."""
    variables = environment().variables
    settings = load(home=home)
    clock = SystemClock()
    started_s = clock.elapsed_s()
    code = script.run(script.command(target, context.args), {**variables, "MLPLAT_HOME": settings.home})
    if json:
        seconds = round(clock.elapsed_s() - started_s, 3)
        say_json({"script": target, "home": str(settings.home_path), "exit_code": code, "seconds": seconds})
    raise typer.Exit(code)


@app.command()
def searches(
    name: Annotated[str | None, typer.Argument(help="Show its leaderboard.", show_default="all searches")] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """The searches of the home, or the trials of one, the best first; of those that are going on as well."""
    with opened(home) as platform:
        found = platform.searches() if name is None else platform.leaderboard_of(name)
    if json:
        say_json(found.to_dicts())
        return
    for line in report.table("trials" if name else "searches", "none yet: platform.search(...)", found.head(SHOWN)):
        typer.echo(line)


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """Show what a home holds: models, endpoints, the cluster that runs for it, the last decisions. Starts nothing."""
    with opened(home) as platform:
        found = platform.status()
    if json:
        say_json(found)
        return
    for line in report.lines(found):
        typer.secho(line, bold=bool(line) and not line.startswith(" "))  # plain where the output is no terminal


@app.command()
def models(
    name: Annotated[str, typer.Argument(help="The name of the models.")], home: Home = None, json: Json = False
) -> None:
    """List the versions of a model with their metrics, best first, and when each was gold, and why."""
    with opened(home) as platform:
        board, periods = platform.leaderboard(name), platform.gold_history(name)
    if json:
        say_json({"versions": board.to_dicts(), "gold": [asdict(period) for period in periods]})
        return
    for line in report.models(board.to_dicts(), periods):
        typer.echo(line)


@app.command()
def lineage(model: Model, home: Home = None, json: Json = False) -> None:
    """Show what a model was made of: data, features, code, settings, packages, and what was decided about it."""
    with opened(home) as platform:
        found = platform.lineage(model)
    if json:
        say_json(found.to_json())
    else:
        typer.echo(str(found))


@app.command()
def export(
    model: Model,
    file: Annotated[str, typer.Argument(metavar="FILE.onnx", help="What to write; one that is there is replaced.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Write a model as an ONNX file, for programs that answer without mlplat."""
    with opened(home) as platform:
        version = platform.version(model)
        path = platform.export(version, file)
    if json:
        say_json({"model": version.name, "version": version.version, "digest": version.digest, "path": str(path)})
    else:
        typer.echo(f"{version.name}@{version.version} is in {path}")


@app.command()
def predict(
    model: Model,
    data: Annotated[
        str, typer.Argument(metavar="INPUT", help="The path or URL of Parquet or CSV: a file, a folder, a pattern.")
    ],
    to: Annotated[str, typer.Option(help="The folder or URL for the answers; those that are there are replaced.")],
    time: Annotated[
        str | None, typer.Option(help="The column with the moment of each row.", show_default="now")
    ] = None,
    compute: Annotated[
        str | None, typer.Option(help='What to use of the cluster, as in "cpu:4".', show_default="all cores")
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Predict for every row of INPUT, and write the answers as Parquet, wholly or not at all."""
    with opened(home) as platform:
        done = platform.predict(model, data, to=to, time=time, compute=compute)
    if json:
        say_json(asdict(done))
    else:
        typer.echo(f"{done.rows:,} rows answered by {done.model}@{done.version} are in {done.to}")


@app.command()
def reproduce(model: Model, home: Home = None, json: Json = False) -> None:
    """Train a model again from its record and compare the weights. 0 if they are the same to the bit, else 1."""
    with opened(home) as platform:
        found = platform.reproduce(model)
    if json:
        say_json({"same": found.same, "difference": found.difference, "changed": found.changed, "run_id": found.run_id})
    else:
        typer.echo(str(found))
    raise typer.Exit(0 if found.same else 1)


@app.command()
def advance(
    name: Endpoint,
    every: Annotated[str, typer.Option(help="How often to ask, as in 30s or 5m.")] = "1m",
    home: Home = None,
) -> None:
    """Carry the experiments of an endpoint on by what really happens, until Ctrl-C or SIGTERM: shares, gold, or their end.

    Its cluster must be one that this process can join: MLPLAT_RAY, or that of a script that stays by platform.keep().
    """
    ended: list[int] = []
    with opened(home) as platform, platform.advancing(name, every=every, say=typer.echo) as loop:
        for number in (signal.SIGINT, signal.SIGTERM):  # not before: Ray takes SIGTERM as it is joined
            signal.signal(number, lambda received, _: ended.append(received))
        typer.echo(f"asking every {every}")
        never = threading.Event()
        while not ended and not loop.done():
            never.wait(LISTEN_S)


@token.command("create")
def create_token(
    name: Endpoint,
    expires: Annotated[str | None, typer.Option(help="Valid for so long, as in 90d.", show_default="for ever")] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make a token and print it, this once. From the first on the endpoint asks its callers for one."""
    with opened(home) as platform:
        made = platform.create_token(name, expires=expires)
    if json:
        say_json({"name": name, "id": made.partition(".")[0], "token": made})
    else:
        typer.echo(made)


@token.command("revoke")
def revoke_token(
    name: Endpoint,
    id: Annotated[str, typer.Argument(metavar="ID", help="The part of the token before the dot.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Let a token open nothing any more."""
    with opened(home) as platform:
        platform.revoke_token(name, id)
    if json:
        say_json({"name": name, "id": id.partition(".")[0]})
    else:
        typer.echo(f"{id.partition('.')[0]} of {name} is revoked")


@token.command("list")
def list_tokens(name: Endpoint, home: Home = None, json: Json = False) -> None:
    """List the tokens of an endpoint by their ids, oldest first."""
    now_us = SystemClock().now_us()
    with opened(home) as platform:
        found = platform.tokens(name)
    if json:
        say_json(
            [
                {
                    "id": one.id,
                    "created_us": one.created_us,
                    "expires_us": one.expires_us,
                    "expired": one.expired(now_us),
                }
                for one in found
            ]
        )
        return
    for line in report.tokens(found, now_us):
        typer.echo(line)


def main() -> None:
    """The entry point. A user's mistake is one message on stderr, never a traceback."""
    try:
        app()
    except MlplatError as error:
        typer.secho(f"mlplat: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2 if isinstance(error, INPUT_ERRORS) else 1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
