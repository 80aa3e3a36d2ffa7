"""What a row of the table measures: its declaration, and what running it gives."""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks._form import Row, against_bound, against_peer, arguments, report


class PeerAbsent(Exception):
    """A peer could not be had, so its row does not hold. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`reference` None: there is no peer, and `ours` stands against the bound. `wrong` says what of the answer is not right:
    then the row does not hold. `note` is printed."""

    ours: float
    reference: float | None = None
    wrong: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a row is measured: small or not, and a folder of its own that goes away behind it."""

    quick: bool
    folder: Path
    say: Callable[[str], None]
    files: Mapping[str, Path | None] = field(default_factory=dict)
    """Those that were named on the command line."""

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


Run = Callable[[Scene], Figures | Mapping[str, Figures | PeerAbsent]]
"""Measures one row, or several by their keys: those that follow one another and have the same `run` are measured once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One row. `reference_name` None: it has no peer."""

    key: str
    measure: str
    unit: str
    reference_name: str | None
    bound: float
    at: Literal["most", "least"] = "most"
    run: Run

    def row(self, found: Figures | None, trouble: str) -> Row:
        """A row without figures, or with trouble, does not hold; it says why."""
        said = f"{self.measure}; {trouble}" if trouble else self.measure
        ours = None if found is None else found.ours
        if self.reference_name is None:
            return against_bound(self.key, said, self.unit, ours, self.bound, at=self.at)
        return against_peer(
            self.key,
            said,
            self.unit,
            ours,
            None if found is None else found.reference,
            self.reference_name,
            self.bound,
            at=self.at,
            right=not trouble,
        )


def main(name: str, measures: Sequence[Measure], *, files: Mapping[str, str] | None = None) -> None:
    """Of `python -m benchmarks.NAME`. `files` may be given as `--NAME FILE`: what each is."""
    args = arguments(name, [measure.key for measure in measures], files or {})
    given = {file: getattr(args, file) for file in files or {}}
    chosen = [m for m in measures if args.only in (None, m.key)]
    rows, broken = measured(chosen, quick=args.quick, files=given)
    report(name, rows, args)
    sys.exit(1 if broken else 0)


def measured(
    measures: Sequence[Measure], *, quick: bool, files: Mapping[str, Path | None] | None = None
) -> tuple[list[Row], bool]:
    """Every row in order, each run in a process of its own, and whether one of them broke rather than missed its bound."""
    rows: list[Row] = []
    broken = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(measures))
        for _, group in groupby(measures, key=lambda measure: measure.run):
            together = list(group)
            keys = " ".join(measure.key for measure in together)
            progress.update(task, description=keys)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                found, broke, notes = process.submit(rows_of, together, quick=quick, files=files).result()
            rows += found
            broken |= broke
            for note in notes:
                progress.console.print(f"{keys}: {note}", markup=False, highlight=False)
            progress.advance(task, len(together))
    return rows, broken


def rows_of(
    measures: Sequence[Measure], *, quick: bool, files: Mapping[str, Path | None] | None = None
) -> tuple[list[Row], bool, list[str]]:
    """The rows of one run, whether it broke, and what to tell of it. What breaks does not take the other rows with it."""
    notes: list[str] = []
    with TemporaryDirectory(prefix="mlplat-bench-") as folder:
        try:
            run = measures[0].run(Scene(quick=quick, folder=Path(folder), say=notes.append, files=files or {}))
        except PeerAbsent as reason:
            return [measure.row(None, str(reason)) for measure in measures], False, notes
        except Exception as error:  # noqa: BLE001 - it is told, and the run fails at its end
            trouble = f"broke: {type(error).__name__}: {error}"
            return [measure.row(None, trouble) for measure in measures], True, [*notes, traceback.format_exc()]
    rows = []
    for measure in measures:
        found = run if isinstance(run, Figures) else run[measure.key]
        if isinstance(found, Figures):
            rows.append(measure.row(found, found.wrong))
            notes += [found.note] if found.note else []
        else:
            rows.append(measure.row(None, str(found)))
    return rows, False, notes
