"""One actor of a pool. polars sizes its threads when a process first imports it, so this module does not: the actor says
how many it may use before anything that it unpacks brings polars in."""

from __future__ import annotations

import faulthandler
from typing import TYPE_CHECKING

import ray.cloudpickle as cloudpickle

from mlplat._ray.data import NUMBER
from mlplat._ray.niceness import in_background
from mlplat.config import set_environment
from mlplat.errors import UserCodeError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

ERROR = "_error"
THREADS = 1
LINGER_S = 5
"""How long the process of a call that hangs may take to give its answer."""


class Worker:
    """An error of the user's code is an answer: raised in an actor it would come out wrapped in Ray's, or as text
    alone."""

    def __init__(self, packed: bytes) -> None:
        set_environment({"POLARS_MAX_THREADS": str(THREADS)})
        self.view, self.timeout_s, self.reader = cloudpickle.loads(packed)
        self._failed: str | None = None
        from mlplat.features.maker import Maker

        self._maker = Maker(self.view, timeout_s=self.timeout_s)
        try:
            _ = self._maker.transform
        except UserCodeError as error:
            self._failed = str(error)

    def make(self, rows: pa.Table) -> pa.Table:
        import polars as pl
        import pyarrow as pa

        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        try:
            return to_arrow(self._made(frame))
        except UserCodeError as error:
            if type(error) is not UserCodeError:  # TooLong: the call goes on, and would keep this process for ever
                faulthandler.dump_traceback_later(LINGER_S, exit=True)
            return pa.table({ERROR: [str(error)]})

    def _made(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self._failed is not None:
            raise UserCodeError(self._failed)
        return self._maker.make(rows)


class ChunkWorker(Worker):
    """Reads the chunks whose numbers it is given, so that the source's rows travel no further than to it."""

    def __init__(self, packed: bytes) -> None:
        in_background()
        super().__init__(packed)

    def __call__(self, numbers: pa.Table) -> pa.Table:
        import pyarrow as pa

        made = [self._chunk(number) for number in numbers[NUMBER].to_pylist()]
        return made[0] if len(made) == 1 else pa.concat_tables(made, promote_options="default")

    def _chunk(self, number: int) -> pa.Table:
        import pyarrow as pa

        rows = self.reader.read(number)
        made = self.make(to_arrow(rows)) if rows.height else pa.table({})
        return made.append_column(NUMBER, pa.array([number] * made.num_rows, pa.int32()))


class OnlineWorker(Worker):
    """Stays for the next events."""

    def ready(self) -> None:
        """Returns once the user's object is made."""


def to_arrow(rows: pl.DataFrame) -> pa.Table:
    import polars as pl

    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())
