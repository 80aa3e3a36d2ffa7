"""The actor pool: a view's transform over many rows, on Ray Data, one object of the user per actor."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from mlplat.errors import MlplatError, Unavailable
from mlplat.features.definitions import View
from mlplat.features.transform import instance, make_rows

BLOCK_ROWS = 4096


class _Worker:
    def __init__(self, view: View) -> None:
        self._view = view
        self._transform = instance(view)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = pl.from_arrow(batch)
        assert isinstance(rows, pl.DataFrame)
        return make_rows(self._view, self._transform, rows).to_arrow(compat_level=pl.CompatLevel.oldest())


def transform_on_pool(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    """`make_rows` of all rows. An error of the user's code comes out as it was raised in the actor."""
    smallest, largest = view.actors
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    blocks = [rows.slice(i, BLOCK_ROWS).to_arrow(compat_level=pl.CompatLevel.oldest()) for i in range(0, rows.height, BLOCK_ROWS)]
    made = ray.data.from_arrow(blocks).map_batches(
        _Worker,
        fn_constructor_args=(view,),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=smallest, max_size=largest),
        # polars reads it when it is first imported: an actor has one core.
        runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}},
        num_cpus=1,
    )
    try:
        tables = [pa.table(ray.get(ref)) for ref in made.to_arrow_refs()]
    except ray.exceptions.RayError as error:
        raise _cause(error) from None
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _cause(error: BaseException) -> MlplatError:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MlplatError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return Unavailable(f"the actor pool failed: {str(error).splitlines()[-1]}")
