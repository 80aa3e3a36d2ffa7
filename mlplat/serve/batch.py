"""Predictions of whole tables: each block of rows is checked, joined with the features that the model pins, and answered by the
model itself. Pure but for the tables that it reads; where the blocks run is no concern of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from mlplat.config import set_environment
from mlplat.errors import InvalidInput
from mlplat.features.buckets import MIB, TEXT_BYTES
from mlplat.features.pieces import Piece
from mlplat.features.pinned import PinnedJoin, Pins
from mlplat.features.transform import POLARS_TYPES
from mlplat.model.model import Model
from mlplat.model.signature import Signature
from mlplat.serve.batch_check import AT, asked
from mlplat.serve.batch_files import Draft
from mlplat.serve.load import ready

PIECE_ROWS = 2**18
"""Rows that are handed to a process at a time."""
BLOCK_BYTES = 64 * MIB
LEAST_ROWS = 2**12
VERSION, DIGEST = "model_version", "model_digest"
"""Columns of the answer, beside the model's outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is asked: a registered version, the features that it pins, and the moment of a row, which is its value of `time`,
    or for all rows `now_us` (microseconds UTC). `memory` is what a process may take for the features, in bytes."""

    version: int
    digest: str
    path: str
    pins: Pins
    time: str | None
    now_us: int
    memory: int


class Scorer:
    """Answers blocks of one batch, one at a time."""

    def __init__(self, batch: Batch, model: Model) -> None:
        self._batch, self._model = batch, model
        self._join = PinnedJoin(batch.pins, memory=batch.memory)

    def piece(self, piece: Piece) -> Iterator[pl.DataFrame]:
        """The answers to a piece, in blocks that fit in memory."""
        first = piece.first
        for frame in piece.frames(block_rows(piece.width, self._model.signature)):
            yield self.answer(frame, first=first)
            first += frame.height

    def answer(self, frame: pl.DataFrame, *, first: int = 0) -> pl.DataFrame:
        """The rows as they are, with the model's outputs, `VERSION` and `DIGEST`. `InvalidInput` names the column and the row,
        counted from `first`."""
        signature = self._model.signature
        _refuse_taken(frame, signature)
        rows = asked(frame, signature, time=self._batch.time, now_us=self._batch.now_us, first=first)
        return frame.hstack(outputs(self._model, self._join(rows, time=AT))).with_columns(
            pl.lit(self._batch.version, dtype=pl.Int64).alias(VERSION), pl.lit(self._batch.digest).alias(DIGEST)
        )


def outputs(model: Model, inputs: pl.DataFrame) -> list[pl.Series]:
    """The model's answers to its input columns, in the signature's types also where there are no rows."""
    found = model.predict(inputs.to_arrow(compat_level=pl.CompatLevel.oldest()))
    return [pl.Series(f.name, found[f.name], dtype=POLARS_TYPES[f.dtype]) for f in model.signature.outputs]


def block_rows(width: int, signature: Signature) -> int:
    """How many rows of so many bytes are answered at once."""
    made = sum(TEXT_BYTES if f.dtype == "string" else 8 for f in signature.inputs())
    return min(max(BLOCK_BYTES // (width + made), LEAST_ROWS), PIECE_ROWS)


class Scoring:
    """Work for any process: the piece of a number is answered into the draft's file of that number; how many rows there were.
    Again is the same.

    Without a `scorer` the model is read when it is first needed, and checked as for an endpoint. `variables` are those of the
    environment that reading and writing at URLs need."""

    def __init__(
        self,
        batch: Batch,
        pieces: Sequence[Piece],
        draft: Draft,
        *,
        scorer: Scorer | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.pieces = pieces
        self._batch, self._draft = batch, draft
        self._scorer = scorer
        self._variables = variables or {}

    def __call__(self, number: int) -> int:
        if self._scorer is None:
            set_environment(self._variables, override=True)
            self._scorer = Scorer(self._batch, ready(self._batch.path, self._batch.digest))
        return self._draft.write(number, self._scorer.piece(self.pieces[number]))


def _refuse_taken(frame: pl.DataFrame, signature: Signature) -> None:
    made = [*(f.name for f in signature.outputs), VERSION, DIGEST]
    if taken := [name for name in made if name in frame.columns]:
        raise InvalidInput(
            f"column {taken[0]!r} is in the table already, and the answer has one: rename it, or drop it"
        )
