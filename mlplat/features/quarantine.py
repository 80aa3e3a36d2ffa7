"""Rows that a source could not take, with the reasons: nothing that was given is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mlplat.features.tables import BATCH, EventTable

BATCH_ID, POSITION, REASON, ROW = "_batch_id", "_position", "_reason", "row"
SCHEMA = pl.Schema({BATCH_ID: pl.String(), POSITION: pl.Int64(), REASON: pl.String(), ROW: pl.String()})


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """`position` is its place in the batch (0-based), `row` what was given, as JSON text."""

    position: int
    reason: str
    row: str


def as_text(row: Any) -> str:
    """What was given, as JSON: times as ISO 8601, and what JSON has not as its text."""
    return json.dumps(row, default=str, ensure_ascii=False)


class Quarantine:
    """The bad rows of one source: a table beside its own."""

    def __init__(self, folder: Path, source: str) -> None:
        self._table = EventTable(folder / source)

    @property
    def path(self) -> Path:
        return self._table.path

    def add(self, batch_id: str, rows: Sequence[BadRow]) -> None:
        """Once for a batch and position: what is there already is not added again."""
        if not rows:
            return
        with self._table.lock():
            held = set(self.rows().filter(pl.col(BATCH_ID) == batch_id)[POSITION].to_list())
            new = [(batch_id, row.position, row.reason, row.row) for row in rows if row.position not in held]
            if new:
                frame = pl.DataFrame(new, schema=SCHEMA, orient="row")
                self._table.append(frame, app="quarantine", number=self._table.version() + 1)

    def rows(self) -> pl.DataFrame:
        """All of them: `_batch_id`, `_position`, `_reason`, and the given `row` as JSON text; oldest batches first."""
        held = self._table.read()
        return held.sort(BATCH, POSITION).select(SCHEMA.names()) if held.width else pl.DataFrame(schema=SCHEMA)

    def count(self) -> int:
        return self._table.now().rows()
