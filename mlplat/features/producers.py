"""Who feeds a source: the record of its producers, and of every decision to replace one. One immutable JSON file each."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from mlplat.decision import Act, Decision, Hold
from mlplat.disk import write_atomically
from mlplat.errors import BatchRefused, InvalidInput, Refused
from mlplat.features.definitions import Source
from mlplat.features.producer_check import ProducerCheck, ProducerFacts, compare
from mlplat.features.read_data import to_frame
from mlplat.features.statistics import Kept, newest_rows
from mlplat.features.tables import ID, EventTable, locked
from mlplat.features.validate import clean
from mlplat.stats import TableSketch

COMPARED = 10_000
"""The sample is compared with the newest days that have so many rows: older ones may be out of season."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerChange:
    """That a producer asked to feed a source, when (microseconds UTC), and what was decided; `forced_by` is who overruled
    a hold."""

    source: str
    producer: str
    at_us: int
    decision: Decision
    forced_by: str | None = None

    @property
    def accepted(self) -> bool:
        return isinstance(self.decision, Act)


class Producers:
    """The producers of the sources of one home. Thread-safe; several processes may use it."""

    def __init__(self, root: Path) -> None:
        self._root = root / "producers"

    def history(self, source: str) -> list[ProducerChange]:
        """Oldest first, holds too."""
        return [_read(path) for path in sorted(self._root.glob(f"{glob.escape(source)}.*.json"))]

    def current(self, source: str) -> str | None:
        """The last one that was accepted; None while none was named."""
        return next((change.producer for change in reversed(self.history(source)) if change.accepted), None)

    def check_producer(self, source: str, producer: str) -> None:
        """`Refused` if the source has another producer."""
        _named(producer)
        current = self.current(source)
        if current is not None and producer != current:
            raise Refused(
                f"source {source!r} is fed by {current!r}, and this batch comes from {producer!r}: "
                f"show a sample first, with platform.features.replace_producer(..., producer={producer!r})"
            )

    def begin(self, source: str, producer: str, *, now_us: int) -> None:
        """The first producer that is named is accepted: there is none that it could differ from."""
        if self.current(source) is None:
            self.record(_change(source, producer, now_us, Act(reason="the first producer")))

    def record(self, change: ProducerChange) -> None:
        with locked(self._root / "lock"):
            number = len(list(self._root.glob(f"{glob.escape(change.source)}.*.json"))) + 1
            path = self._root / f"{change.source}.{number:06d}.json"
            write_atomically(path, orjson.dumps(_to_json(change), option=orjson.OPT_INDENT_2))


def consider(
    source: Source,
    sample: Any,
    producer: str,
    *,
    table: EventTable,
    kept: Kept,
    now_us: int,
    force: tuple[str, str] | None,
) -> ProducerChange:
    """Decide whether rows like the sample may follow those of the table. A sample that `ingest` would refuse cannot be
    forced (`Refused`)."""
    change = _change(source.name, producer, now_us, Hold(reason=""))
    facts = gather(source, sample, table, kept)
    decision = ProducerCheck().decide(facts)
    if force is None:
        return replace(change, decision=decision)
    return replace(change, decision=_forced(decision, facts, *force), forced_by=force[0])


def gather(source: Source, sample: Any, table: EventTable, kept: Kept) -> ProducerFacts:
    frame = to_frame(sample)
    newest = newest_rows(kept, COMPARED)
    try:
        rows = clean(source, frame, table.schema())
    except BatchRefused as error:
        return ProducerFacts(rows=frame.height, rows_kept=newest.rows, problems=tuple(map(str, error.problems)))
    return ProducerFacts(
        rows=rows.height,
        rows_kept=newest.rows,
        known_keys=_known_keys(source, rows, table),
        columns=compare(source, newest, TableSketch.of(rows.drop(ID))),
    )


def _known_keys(source: Source, rows: pl.DataFrame, table: EventTable) -> float | None:
    entities, known = rows.select(source.key).unique(), table.read([*source.key])
    if entities.is_empty() or known.is_empty():
        return None
    return entities.join(known.unique(), on=source.key, how="semi").height / entities.height


def _change(source: str, producer: str, at_us: int, decision: Decision) -> ProducerChange:
    return ProducerChange(source=source, producer=_named(producer), at_us=at_us, decision=decision)


def _named(producer: str) -> str:
    if not producer.strip():
        raise InvalidInput("a producer has a name, as in producer='telemetry-v2'")
    return producer


def _forced(decision: Decision, facts: ProducerFacts, who: str, why: str) -> Decision:
    if not who or not why:
        raise InvalidInput("force=(who, why): both must be said")
    if facts.problems:
        raise Refused(f"ingest would refuse the sample, so it cannot be forced: {decision.reason}")
    said = f"{'hold' if isinstance(decision, Hold) else 'act'}: {decision.reason}"
    return Act(reason=f"forced by {who}: {why}", evidence={**decision.evidence, "policy_said": said})


def _to_json(change: ProducerChange) -> dict[str, Any]:
    decision = {"reason": change.decision.reason, "evidence": dict(change.decision.evidence)}
    return {
        "source": change.source,
        "producer": change.producer,
        "at_us": change.at_us,
        "accepted": change.accepted,
        **decision,
        "forced_by": change.forced_by,
    }


def _read(path: Path) -> ProducerChange:
    raw: Mapping[str, Any] = orjson.loads(path.read_bytes())
    decide = Act if raw["accepted"] else Hold
    return ProducerChange(
        source=raw["source"],
        producer=raw["producer"],
        at_us=raw["at_us"],
        decision=decide(reason=raw["reason"], evidence=raw["evidence"]),
        forced_by=raw["forced_by"],
    )
