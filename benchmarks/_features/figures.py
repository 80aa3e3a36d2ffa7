"""What a row of the table measures: its declaration, and what running it gives."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks._form import Row, against_bound, against_peer


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

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One row. `reference_name` None: it has no peer."""

    key: str
    measure: str
    unit: str
    reference_name: str | None
    bound: float
    at: Literal["most", "least"] = "most"
    run: Callable[[Scene], Figures]

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


@dataclass(slots=True, kw_only=True)
class Measured:
    """The rows so far, and whether one of them broke rather than missed its bound."""

    rows: list[Row] = field(default_factory=list)
    broken: bool = False


def measured(measures: Sequence[Measure], *, quick: bool) -> Measured:
    """Every row in order. What breaks is told with its trace, and the rows behind it are measured all the same."""
    done = Measured()
    with _progress(len(measures)) as (advance, say):
        for measure in measures:
            advance(measure.key)
            with TemporaryDirectory(prefix="mlplat-bench-") as folder:
                scene = Scene(quick=quick, folder=Path(folder), say=say)
                try:
                    found = measure.run(scene)
                    done.rows.append(measure.row(found, found.wrong))
                    if found.note:
                        say(f"{measure.key}: {found.note}")
                except PeerAbsent as reason:
                    done.rows.append(measure.row(None, str(reason)))
                except Exception as error:  # noqa: BLE001 - one row must not take the others with it
                    say(traceback.format_exc())
                    done.rows.append(measure.row(None, f"broke: {type(error).__name__}: {error}"))
                    done.broken = True
    return done


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=total)
        begun = 0

        def advance(key: str) -> None:
            nonlocal begun
            progress.update(task, description=key, completed=begun)
            begun += 1

        yield advance, progress.console.print
        progress.update(task, description="done", completed=total)
