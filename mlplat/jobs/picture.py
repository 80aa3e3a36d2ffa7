"""Who held what when, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from mlplat.errors import InvalidInput

_WIDTH, _HEIGHT = 10.0, 4.0


def draw(held: pl.DataFrame, path: str | Path, *, title: str = "") -> Path:
    """Workers that each tenant held, one on the other, over the time; `held` as `Jobs.held` gives it. The kind of file is that of
    its name: .png, .svg or .pdf. `InvalidInput` if nothing was held."""
    if not held.height:
        raise InvalidInput("nothing was held: there is no picture of that")
    began = (held["began"] - held["began"].min()).dt.total_microseconds().to_numpy() / 1e6
    ended = (held["ended"] - held["began"].min()).dt.total_microseconds().to_numpy() / 1e6
    tenants = held["tenant"].unique().sort().to_list()
    times = np.unique(np.concatenate([began, ended]))
    counts = [_held(held, began, ended, times, tenant) for tenant in tenants]
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    axes.stackplot(times, counts, step="post", labels=tenants, colors=colours, linewidth=0)
    axes.set(xlabel="seconds", ylabel="workers held", title=title, xlim=(times[0], times[-1]))
    axes.margins(y=0.02)
    figure.legend(loc="outside right center", frameon=False, reverse=True)
    return save(figure, path)


def save(figure: Figure, path: str | Path) -> Path:
    """The same picture is the same file. `InvalidInput` for a kind of file that is none of a picture."""
    target = Path(path)
    try:
        with rc_context({"svg.hashsalt": "mlplat", "svg.fonttype": "none"}):
            figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    except ValueError as error:
        raise InvalidInput(f"{str(target)!r}: {error}") from None
    return target


def _held(held: pl.DataFrame, began: np.ndarray, ended: np.ndarray, times: np.ndarray, tenant: str) -> Sequence[float]:
    """Workers of one, from each of the times to the next."""
    own = (held["tenant"] == tenant).to_numpy()
    change = np.zeros(len(times))
    workers = held["workers"].to_numpy()[own]
    np.add.at(change, np.searchsorted(times, began[own]), workers)
    np.add.at(change, np.searchsorted(times, ended[own]), -workers)
    found: list[float] = np.cumsum(change).tolist()
    return found
