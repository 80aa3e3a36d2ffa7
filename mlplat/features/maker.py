"""One view's transform in one process: made once, called with a bounded number of rows, for a bounded time, and its
errors name the row."""

from __future__ import annotations

import faulthandler
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import polars as pl

from mlplat.errors import UserCodeError
from mlplat.features.definitions import View
from mlplat.features.tables import BATCH, ID
from mlplat.features.transform import Transform, instance, make_rows

CALL_ROWS = 8_192
"""The most rows that one call of a transform gets."""


class Maker:
    """Makes a view's rows of its source's. Not for several threads at once.

    With `timeout_s` the user's code runs on a thread of its own, always the same; a call that takes longer is an error,
    and the process should end then: the call itself cannot be stopped.
    """

    def __init__(self, view: View, *, timeout_s: float | None = None) -> None:
        self._view = view
        self._timeout_s = timeout_s
        self._thread = None if timeout_s is None else ThreadPoolExecutor(1, thread_name_prefix=f"mlplat-{view.name}")

    @cached_property
    def transform(self) -> Transform | None:
        """The user's object, made when it is first needed: it may be a large model, and a process that sends its rows to
        actors needs none. However long that takes. Raises `UserCodeError` if its `__init__` raises."""
        if self._thread is None:
            return instance(self._view)
        return self._thread.submit(instance, self._view).result()

    def make(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Raises `UserCodeError` with the view, the line of the user's code, and the first row that fails."""
        calls = [rows.slice(at, CALL_ROWS) for at in range(0, rows.height, CALL_ROWS)] or [rows]
        made = [self._explained(some) for some in calls]
        return pl.concat(made) if len(made) > 1 else made[0]

    def _explained(self, rows: pl.DataFrame) -> pl.DataFrame:
        try:
            return self._call(rows)
        except TooLong:
            raise
        except UserCodeError as error:
            found = self._of_one_row(rows)
            if found is None:
                raise
            raise found from error

    def _of_one_row(self, rows: pl.DataFrame) -> UserCodeError | None:
        """The error of the first row that fails by itself; None if none does."""
        some = rows
        while some.height > 1:
            half = some.height // 2
            some = some.head(half) if self._error(some.head(half)) is not None else some.slice(half)
        return self._error(some)

    def _error(self, rows: pl.DataFrame) -> UserCodeError | None:
        try:
            self._call(rows)
        except TooLong:
            raise
        except UserCodeError as error:
            return error
        return None

    def _call(self, rows: pl.DataFrame) -> pl.DataFrame:
        if self._thread is None:
            return make_rows(self._view, self.transform, rows)
        transform = self.transform
        assert self._timeout_s is not None
        # Code that holds the interpreter's lock stops the timer below too: then the process ends.
        faulthandler.dump_traceback_later(2 * self._timeout_s + 1, exit=True)
        try:
            return self._thread.submit(make_rows, self._view, transform, rows).result(self._timeout_s)
        except TimeoutError:
            raise too_long(self._view, self._timeout_s, rows) from None
        finally:
            faulthandler.cancel_dump_traceback_later()


class TooLong(UserCodeError):
    """A call of the user's code did not return in time."""


def too_long(view: View, limit_s: float, rows: pl.DataFrame) -> UserCodeError:
    return TooLong(
        f"view {view.name!r}: __call__ took longer than {limit_s:g} s on {rows.height} rows, the first being "
        f"{_shown(rows)}. Raise the limit with @F.view(..., timeout='10m'), or find out what it waits for."
    )


def _shown(rows: pl.DataFrame) -> dict[str, Any]:
    return rows.drop(ID, BATCH, strict=False).row(0, named=True)
