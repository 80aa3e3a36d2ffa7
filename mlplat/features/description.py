"""A description of data for people: tables with a small histogram by column, and the same numbers as a polars frame."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mlplat.stats import ColumnSketch, TableSketch

RANKS = (0.01, 0.25, 0.50, 0.75, 0.99)
BINS = 16
TOP = 5
WIDTH = 180
_QUANTILES = [f"p{rank * 100:.0f}" for rank in RANKS]
_TOP = pl.List(pl.Struct({"value": pl.String(), "at_least": pl.Int64(), "at_most": pl.Int64()}))
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a source, a view or a training set holds. `subject` says of what, `rows` which ones, `about` what people said.

    `print` it, or end a notebook cell with it. `sketch` answers further questions.
    """

    subject: str
    rows: str
    sketch: TableSketch
    about: Mapping[str, str] = field(default_factory=dict)

    def to_polars(self) -> pl.DataFrame:
        """One row per column. Times are seconds since the epoch; text has no numbers; a bool counts as 0 or 1."""
        numbers = ["min", *_QUANTILES, "max", "mean", "std"]
        names = ["column", "type", "count", "nulls", *numbers, "distinct", "top"]
        types = [pl.String(), pl.String(), pl.Int64(), *[pl.Float64()] * (len(numbers) + 2), _TOP]
        rows = [[name, *_row(sketch)] for name, sketch in self.sketch.columns.items()]
        return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH, color_system=None, emoji=False, highlight=False)
        with console.capture() as captured:
            console.print(self._shown())
        return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH, record=True, emoji=False, highlight=False)
        console.print(self._shown())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _shown(self) -> Group:
        said = [Text(f"{name}: {text}") for name, text in self.about.items() if text]
        parts: list[Text | Table] = [Text(self.subject, style="bold"), *said, Text(self.rows)]
        for kinds, table in ((("float64", "int64"), _numbers), (("timestamp",), _times), (("string", "bool"), _named)):
            if chosen := {name: sketch for name, sketch in self.sketch.columns.items() if sketch.kind in kinds}:
                parts += [Text(), table(chosen)]
        return Group(*parts)


def sparkline(sketch: ColumnSketch) -> str:
    """How the numbers lie between the 1st and the 99th percentile: `BINS` bars, of whole numbers at most one a number. Those
    beyond count in the outer bars. One bar for a constant."""
    low, high = sketch.numbers.at([0.01, 0.99])
    if not np.isfinite(high - low) or low == high:
        return _BARS[-1] if sketch.count else ""
    whole = sketch.kind == "int64" and high - low < BINS
    edges = np.arange(low + 1, high + 1) if whole else np.linspace(low, high, BINS + 1)[1:-1]
    shares = np.diff(sketch.below(edges, inclusive=False), prepend=0.0, append=1.0)
    heights = np.ceil(shares / shares.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def _numbers(columns: Mapping[str, ColumnSketch]) -> Table:
    table = _table(["count", "nulls", "min", *_QUANTILES, "max", "mean", "std", "distinct"], "p1 to p99")
    for name, sketch in columns.items():
        mean = sketch.mean if sketch.count else None
        values = [sketch.low, *sketch.quantiles(RANKS), sketch.high, mean, sketch.std]
        spelled = map(_number, values)  # type: ignore[arg-type]
        table.add_row(name, sketch.kind, *_counts(sketch), *spelled, _distinct(sketch), sparkline(sketch))
    return table


def _times(columns: Mapping[str, ColumnSketch]) -> Table:
    table = _table(["count", "nulls", "first", "median", "last", "distinct"], "p1 to p99")
    for name, sketch in columns.items():
        spelled = map(_time, [sketch.low, *sketch.quantiles([0.5]), sketch.high])  # type: ignore[arg-type]
        table.add_row(name, sketch.kind, *_counts(sketch), *spelled, _distinct(sketch), sparkline(sketch))
    return table


def _named(columns: Mapping[str, ColumnSketch]) -> Table:
    table = _table(["count", "nulls", "distinct"], "most frequent")
    for name, sketch in columns.items():
        table.add_row(name, sketch.kind, *_counts(sketch), _distinct(sketch), Text(_top(sketch)))
    return table


def _table(numbers: Iterable[str], last: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("column", "type"):
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last, no_wrap=True, overflow="ellipsis")
    return table


def _counts(sketch: ColumnSketch) -> list[str]:
    return [f"{sketch.count:,}", f"{sketch.null_rate:.2%}"]


def _distinct(sketch: ColumnSketch) -> str:
    return f"{sketch.distinct():,.0f}"


def _top(sketch: ColumnSketch) -> str:
    items = [f"{item.value or repr('')} {item.at_least / sketch.count:.1%}" for item in sketch.top(TOP)]
    return ", ".join(items) or ("none is frequent" if sketch.count else "")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**9 else f"{value:.4g}"


def _time(us: int | None) -> str:
    return "" if us is None else str(np.datetime64(us, "us").astype("datetime64[m]")).replace("T", " ")


def _row(sketch: ColumnSketch) -> list[object]:
    """The row of `to_polars`, without the name."""
    unit = 1e6 if sketch.kind == "timestamp" else 1.0
    values = [sketch.low, *sketch.quantiles(RANKS), sketch.high, sketch.mean if sketch.count else None, sketch.std]
    plain = [None if value is None or sketch.kind == "string" else float(value) / unit for value in values]
    top = [{"value": t.value, "at_least": t.at_least, "at_most": t.at_most} for t in sketch.top(TOP)]
    return [sketch.kind, sketch.count, sketch.null_rate, *plain, sketch.distinct(), top]
