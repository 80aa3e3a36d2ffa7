"""The actor pool: a view's transform over many rows, on Ray Data, one object of the user per actor."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import ray
import ray.exceptions

from mlplat.errors import Unavailable, UserCodeError
from mlplat.features.definitions import View
from mlplat.features.transform import Transform, instance, make_rows

BLOCK_ROWS = 4096
_ERROR = "_error"


class _Worker:
    """An error of the user's code is an answer: raised in an actor it would come out wrapped in Ray's, or as text
    alone."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._transform: Transform | None = None
        self._failed: str | None = None
        try:
            self._transform = instance(view)
        except UserCodeError as error:
            self._failed = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pl.from_arrow(batch)
        assert isinstance(rows, pl.DataFrame)
        try:
            if self._failed is not None:
                raise UserCodeError(self._failed)
            return make_rows(self._view, self._transform, rows).to_arrow(compat_level=pl.CompatLevel.oldest())
        except UserCodeError as error:
            return pa.table({_ERROR: [str(error)]})


def transform_on_pool(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    """`make_rows` of all rows. An error of the user's code comes out as it was raised in the actor.

    The pipeline is driven from a task: Ray Data talks on the terminal of its driver whatever it is told.
    """
    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    try:
        frame = _frame(ray.get(ray.remote(num_cpus=0)(_pipeline).remote(view, table)))
    except ray.exceptions.RayError as error:
        raise Unavailable(f"the actor pool of view {view.name!r} failed: {str(error).splitlines()[-1]}") from error
    if _ERROR in frame.columns:
        raise UserCodeError(frame[_ERROR].drop_nulls()[0])
    return frame


def _pipeline(view: View, table: pa.Table) -> pa.Table:
    """No runtime environment for the actors: with one (say POLARS_MAX_THREADS) no waiting worker process fits, and new
    ones take 4 s to start."""
    import ray.data

    smallest, largest = view.actors
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = [table.slice(i, BLOCK_ROWS) for i in range(0, table.num_rows, BLOCK_ROWS)]
    made = ray.data.from_arrow(blocks).map_batches(
        _Worker,
        fn_constructor_args=(view,),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=smallest, max_size=largest),
        num_cpus=1,
    )
    tables = [pa.table(ray.get(ref)) for ref in made.to_arrow_refs()]
    return pa.concat_tables(tables, promote_options="default")


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
