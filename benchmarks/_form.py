"""The form of every benchmark: `python -m benchmarks.NAME [--json FILE] [--only KEY] [--quick]`, a table, and rows as JSON."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured figure beside its reference. Without a peer the reference is the bound, and there is no ratio."""

    key: str
    measure: str
    unit: str
    ours: float | None
    reference: float | None
    reference_name: str
    ratio: float | None
    bound: float
    holds: bool


def against_bound(
    key: str, measure: str, unit: str, ours: float | None, bound: float, *, at: Literal["most", "least"]
) -> Row:
    """A figure without a peer; one that could not be measured does not hold."""
    known = ours is not None and math.isfinite(ours)
    holds = known and (ours <= bound if at == "most" else ours >= bound)
    return Row(
        key=key,
        measure=measure,
        unit=unit,
        ours=ours,
        reference=bound,
        reference_name="bound",
        ratio=None,
        bound=bound,
        holds=bool(holds),
    )


def against_peer(
    key: str,
    measure: str,
    unit: str,
    ours: float | None,
    reference: float | None,
    reference_name: str,
    bound: float,
    *,
    at: Literal["most", "least"] = "most",
    right: bool = True,
) -> Row:
    """A figure beside a peer's of the same run; `bound` is on ours / reference.

    It holds only if both could be measured and the answer was `right` too.
    """
    ratio = ours / reference if ours is not None and reference else math.nan
    known = math.isfinite(ratio)
    holds = right and known and (ratio <= bound if at == "most" else ratio >= bound)
    return Row(
        key=key,
        measure=measure,
        unit=unit,
        ours=ours,
        reference=reference,
        reference_name=reference_name,
        ratio=ratio if known else None,
        bound=bound,
        holds=holds,
    )


Timed = Callable[[], float]
"""Does its work once and returns the seconds that it took."""


def timed(call: Callable[[], Any]) -> Timed:
    def once() -> float:
        began = perf_counter()
        call()
        return perf_counter() - began

    return once


def alternately(rounds: int, *calls: Timed) -> list[list[float]]:
    """The seconds of each call in each round. Each runs once before that; then they take turns, and who begins changes."""
    taken: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for number in range(rounds):
        turns = list(zip(calls, taken, strict=True))
        for call, seconds in turns if number % 2 else reversed(turns):
            seconds.append(call())
    return taken


def medians(rounds: int, *calls: Timed) -> list[float]:
    """The median seconds of calls that take turns."""
    return [median(seconds) for seconds in alternately(rounds, *calls)]


def in_blocks(blocks: int, each: int, *calls: Timed) -> list[float]:
    """The median seconds of calls that take turns in blocks, as many calls in a block for each: what a busy caller sees.

    For an answer of less than a millisecond beside a peer that takes a hundred of them in a process of its own: one for one,
    each of ours would be that of a process that has just been woken.
    """
    taken: list[list[float]] = [[] for _ in calls]
    for number in range(blocks):
        turns = list(zip(calls, taken, strict=True))
        for call, seconds in turns if number % 2 else reversed(turns):
            seconds += [call() for _ in range(each)]
    return [median(seconds) for seconds in taken]


def arguments(name: str, keys: Sequence[str], files: Mapping[str, str] | None = None) -> Namespace:
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", choices=keys, help="report this row alone")
    parser.add_argument("--quick", action="store_true", help="small: checks the form, not the figures")
    for file, said in (files or {}).items():
        parser.add_argument(f"--{file}", type=Path, help=said)
    return parser.parse_args()


def report(name: str, rows: Sequence[Row], args: Namespace) -> None:
    """Print the table and write the JSON."""
    chosen = [row for row in rows if args.only in (None, row.key)]
    table = Table(title=f"benchmarks.{name}{' --quick' if args.quick else ''}")
    for column in ("key", "measure", "ours", "reference", "ratio", "bound", "holds"):
        table.add_column(column, no_wrap=column == "key")
    for row in chosen:
        table.add_row(
            row.key,
            row.measure,
            f"{_figure(row.ours)} {row.unit}",
            f"{_figure(row.reference)} ({row.reference_name})",
            _figure(row.ratio),
            _figure(row.bound),
            "yes" if row.holds else "NO",
        )
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps({"benchmark": name, "rows": [asdict(row) for row in chosen]}, indent=1) + "\n")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
