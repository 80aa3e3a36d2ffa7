"""Work to try a cluster on: a CSV file of when jobs came, what they asked for and how long they took."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from mlplat.clock import US_PER_S
from mlplat.cluster.world import Arrival
from mlplat.errors import InvalidInput, NotFound
from mlplat.jobs.egress import GB
from mlplat.jobs.job import PRIORITIES, Job
from mlplat.jobs.rules import POOL

_NUMBERS = ("at_s", "bundles", "work_s")
_WORDS = ("tenant", "priority", "preemptible", "data_gb", "data_at")


def read(file: Path) -> list[Arrival]:
    """Columns `at_s` (seconds from any start), `bundles` (how many must run together), `work_s` (how long), a column for each
    resource of a bundle ("GPU", "CPU"), and, if there are such, `tenant`, `priority` ("normal"), `preemptible` (true), and
    `data_gb` and `data_at`: how many GB (1e9 bytes) it reads, and the place where they are.

    Raises `InvalidInput` with the line of what is wrong.
    """
    try:
        table = pl.read_csv(file)
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except PolarsError as error:
        raise InvalidInput(f"{file} is not a CSV file: {str(error).splitlines()[0]}") from None
    if missing := [name for name in _NUMBERS if name not in table.columns]:
        raise InvalidInput(f"{file}:1: has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    resources = [name for name in table.columns if name not in {*_NUMBERS, *_WORDS}]
    if not resources:
        raise InvalidInput(f"{file}:1: has no column of a resource, such as GPU")
    for name in (*_NUMBERS, *resources):
        if not table[name].dtype.is_numeric():
            raise InvalidInput(f"{file}:1: {name} must be numbers in all lines")
    return [_arrival(file, line, row, resources) for line, row in enumerate(table.to_dicts(), start=2)]


def _arrival(file: Path, line: int, row: dict[str, object], resources: list[str]) -> Arrival:
    numbers = {name: value for name in (*_NUMBERS, *resources) if isinstance(value := row[name], int | float)}
    if len(numbers) < len(_NUMBERS) + len(resources):
        raise InvalidInput(f"{file}:{line}: a number is missing")
    if numbers["at_s"] < 0 or numbers["work_s"] <= 0 or numbers["bundles"] < 1 or numbers["bundles"] % 1:
        raise InvalidInput(f"{file}:{line}: at_s must be 0 or more, work_s above 0, and bundles a whole number from 1")
    priority = str(row.get("priority") or "normal")
    if priority not in PRIORITIES:
        raise InvalidInput(f"{file}:{line}: priority {priority!r} is not one of {', '.join(PRIORITIES)}")
    count = int(numbers["bundles"])
    job = Job(
        id=f"line-{line}",
        tenant=str(row.get("tenant") or "default"),
        pool=POOL,
        submitted_us=round(numbers["at_s"] * US_PER_S),
        each=tuple((name, float(numbers[name])) for name in resources if numbers[name] > 0),
        count=count,
        least=count,
        priority=PRIORITIES[priority],
        preemptible=str(row.get("preemptible", True)).lower() != "false",
        data=_data(file, line, row),
    )
    return Arrival(job=job, work_s=float(numbers["work_s"]))


def _data(file: Path, line: int, row: dict[str, object]) -> tuple[tuple[str, int], ...]:
    amount, place = row.get("data_gb") or 0.0, row.get("data_at")
    if not isinstance(amount, int | float) or amount < 0:
        raise InvalidInput(f"{file}:{line}: data_gb {amount!r} must be a number from 0")
    if not amount:
        return ()
    if not place:
        raise InvalidInput(f"{file}:{line}: data_at is missing: where are its {amount:g} GB?")
    return ((str(place), round(amount * GB)),)
