"""`platform.status()` as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlplat.clock import iso

if TYPE_CHECKING:
    import polars as pl

    from mlplat.serve.tokens import Token
    from mlplat.train.history import GoldPeriod

DECISIONS = 5


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield f"home  {status['home']} (format {status['format']})"
    yield from _section("models", "none yet: platform.train(...) makes one", map(_model, status["models"]))
    yield from _section("endpoints", 'none: platform.serve("NAME") starts one', map(_endpoint, status["endpoints"]))
    yield from _section("cluster", "none runs for this home", _cluster(status["cluster"]))
    yield from _section("decisions", "none yet", map(_decision, status["decisions"][-DECISIONS:]))


def models(versions: Sequence[Mapping[str, Any]], periods: Sequence[GoldPeriod]) -> Iterator[str]:
    """The leaderboard of a name, and when which version was gold."""
    hidden = ("version", "epoch", "reached", "gold", "candidate", "digest", "run_id")
    metrics = [name for name in (versions[0] if versions else {}) if name not in hidden]
    rows = [_version(row, metrics) for row in versions]
    yield from _section(
        "versions", "none yet: platform.train(...) makes one", [("", *metrics, "", "")][: len(rows)] + rows
    )
    yield from _section("gold", "none yet: platform.promote(model)", map(_period, periods))


def tokens(found: Sequence[Token], now_us: int) -> Iterator[str]:
    yield from _section("tokens", "none: mlplat token create NAME makes one", [_token(one, now_us) for one in found])


def table(title: str, empty: str, found: pl.DataFrame) -> Iterator[str]:
    """Columns that have nothing in them are left out, and of a text its last line is shown."""
    named = [name for name in found.columns if any(value not in {None, ""} for value in found[name])]
    rows = [[_cell(row[name]) for name in named] for row in found.iter_rows(named=True)]
    yield from _section(title, empty, [named, *rows] if rows else [])


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).strip().splitlines()[-1]


def _token(token: Token, now_us: int) -> Sequence[str]:
    made = f"made {iso(token.created_us)[:19]}"
    if token.expires_us is None:
        return (token.id, made, "never expires")
    return (token.id, made, f"{'expired' if token.expired(now_us) else 'expires'} {iso(token.expires_us)[:19]}")


def _version(row: Mapping[str, Any], metrics: Sequence[str]) -> Sequence[str]:
    found = ["-" if row[name] is None else f"{row[name]:.4g}" for name in metrics]
    marks = [name for name in ("gold", "candidate") if row[name]]
    reached = "" if row["reached"] is None else "goal reached" if row["reached"] else "goal not reached"
    return (str(row["version"]), *found, reached, ", ".join(marks))


def _period(period: GoldPeriod) -> Sequence[str]:
    until = "now" if period.until_us is None else iso(period.until_us)[:19]
    return (f"version {period.version}", f"{iso(period.since_us)[:19]} to {until}", f"by {period.actor}", period.reason)


def _section(title: str, empty: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    table = list(rows)
    yield ""
    yield title if table else f"{title}  ({empty})"
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _model(model: Mapping[str, Any]) -> Sequence[str]:
    count = model["versions"]
    return (
        model["name"],
        f"{count} version{'' if count == 1 else 's'}",
        f"gold {_or_none(model['gold'])}",
        f"candidate {_or_none(model['candidate'])}",
    )


def _endpoint(endpoint: Mapping[str, Any]) -> Sequence[str]:
    state = "answers" if endpoint["alive"] else "does not answer"
    return (endpoint["name"], f"version {endpoint['version']}", endpoint["url"], state)


def _cluster(cluster: Mapping[str, Any] | None) -> Iterator[Sequence[str]]:
    for node in cluster["nodes"] if cluster else ():
        resources = node["resources"]
        held = ", ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name))
        yield (node["address"], held or "no CPU", "alive" if node["alive"] else "dead")


def _decision(decision: Mapping[str, Any]) -> Sequence[str]:
    said = "act" if decision["act"] else "hold"
    return (decision["at"], decision["policy"], decision["subject"], said, decision["reason"])


def _or_none(version: int | None) -> str:
    return "none" if version is None else str(version)
