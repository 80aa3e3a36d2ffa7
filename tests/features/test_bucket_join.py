"""A join in buckets gives what the join in memory gives, byte for byte, however the rows are spread."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.clock import US_PER_S
from mlplat.errors import InvalidInput, Refused
from mlplat.features import bucket_join, labels, offline
from mlplat.features.bucket_join import Joiner
from mlplat.features.bucket_tasks import Rows, Task, one_by_one
from mlplat.features.buckets import Plan, Size, still_seen
from mlplat.features.definitions import View
from mlplat.features.pool import InProcess
from mlplat.features.table_scan import Snapshot
from mlplat.features.tables import EventTable
from mlplat.features.view_rows import ViewRows
from tests.features import test_late, test_offline
from tests.features.support import START_US, Event, StillClock, after, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Rows):
    """Rows that are in memory already."""

    held: pl.DataFrame

    def frames(self, *, rows: int, share: tuple[int, int] = (0, 1)) -> Iterator[pl.DataFrame]:
        pieces = list(self.held.iter_slices(rows))
        yield from pieces[share[0] :: share[1]]

    def schema(self) -> Mapping[str, pl.DataType]:
        return self.held.schema

    def size(self) -> Size:
        return Size.of(self.held.height, self.held.schema)


def hold(view: View, held: pl.DataFrame) -> Held:
    return Held(view=view, table=Snapshot(at="", version=0), held=held)


plans = st.builds(
    Plan,
    workers=st.integers(1, 3),
    buckets=st.integers(1, 8),
    bucket_bytes=st.sampled_from([250, 900, 10**9]),
    batch_rows=st.sampled_from([3, 20, 100]),
    label_rows=st.sampled_from([9, 100]),
)


def in_buckets(asked: pl.DataFrame, rows: Rows, plan: Plan, known_us: int | None = None) -> pl.DataFrame:
    with TemporaryDirectory() as root:
        found = bucket_join.columns(
            asked, rows, time="at", plan=plan, root=Path(root), run=backwards, known_us=known_us
        )  # fmt: skip
        assert [path.name for path in Path(root).iterdir()] == ["lock"]
    return asked.hstack(found)


def backwards(tasks: Sequence[Task], workers: int) -> None:
    """The order of tasks does not matter, and one that is run again gives the same."""
    one_by_one([tasks[-1], *reversed(tasks)], workers)


def check(view: View, held: pl.DataFrame, asked: pl.DataFrame, plan: Plan, known_us: int | None = None) -> None:
    wanted = offline.join(asked, [view], time="at", rows_of=lambda _: held, known_us=known_us)
    found = in_buckets(asked, hold(view, held), plan, known_us)
    assert found.schema == wanted.schema
    assert labels._hash(found, [view.ref]) == labels._hash(wanted, [view.ref]), (found, wanted)


def drawn(seed: int, view: View) -> tuple[list[Event], list[tuple[Any, ...]]]:
    """Many events with versions, and labels, that meet often: few entities, and moments on the borders of windows."""
    random = Random(seed)
    keys: list[tuple[Any, ...]] = (
        [("north", 1), ("south", 1), ("south", 2), ("Ærø", None)] if len(view.keys) == 2 else [("a",), ("b",), (None,)]
    )
    late = view.source.created is not None

    def moment() -> int:
        return START_US + random.randrange(-14, 30) * US_PER_S // 2

    events = {
        (time, id, time + random.choice([-1, 0, 0, 1, 4]) * US_PER_S if late else 0): random.choice(
            [0.1, 1e16, -0.0, None]
        )
        for time, id in [(moment(), random.randrange(2)) for _ in range(random.choice([0, 3, 60]))]
        for _ in range(2)
    }
    entities = {(time, id): random.choice(keys) for time, id, _ in events}
    made = [
        Event(entity=entities[time, id], time_us=time, id=id, created_us=created if late else None,
              values={"price": value, "stock": id})
        for (time, id, created), value in events.items()
    ]  # fmt: skip
    return made, [(*random.choice(keys), moment()) for _ in range(random.choice([1, 40]))]


VIEWS = [test_offline.windows, test_offline.newest, test_offline.fresh, *test_late.VIEWS]


def tables(view: View, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    events, rows = drawn(seed, view)
    module: Any = test_offline if view.source.created is None else test_late
    held = module.rows_of(view, events) if module is test_offline else module.frame_of(view, events)
    return held, module.asked(rows)


# No shrinking: the events are drawn outside.
@pytest.mark.slow
@settings(max_examples=40, phases=[Phase.generate])
@given(st.integers(0, 2**32), plans, st.one_of(st.none(), test_late.moments), st.sampled_from(VIEWS))
def test_the_number_of_buckets_and_their_size_do_not_matter(
    seed: int, plan: Plan, known_us: int | None, view: View
) -> None:
    check(view, *tables(view, seed), plan, known_us)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view.source.name}-{view.name}")
def test_what_is_still_seen_is_enough_for_every_later_label(view: View) -> None:
    left_out = 0
    for seed in range(12):
        held, asked = tables(view, seed)
        cut = START_US + (seed + 4) * US_PER_S // 2
        before = held.filter(pl.col("sold_at").to_physical() < cut)
        later = pl.concat([asked, asked.with_columns(at=pl.lit(cut).cast(asked.schema["at"]))])
        later = later.filter(pl.col("at").to_physical() >= cut)
        for known_us in (None, cut - US_PER_S, cut, cut + 2 * US_PER_S):
            whole = offline.join(later, [view], time="at", rows_of=lambda _, b=before: b, known_us=known_us)
            kept = still_seen(view, before, cut, known_us=known_us)
            assert offline.join(later, [view], time="at", rows_of=lambda _, k=kept: k, known_us=known_us).equals(whole)
        left_out += before.height - kept.height
    assert left_out > 0 or view.span_us > 30 * US_PER_S


def test_an_older_row_is_seen_on_unless_a_newer_one_was_known_as_early() -> None:
    def kept(*rows: tuple[int, int]) -> list[tuple[int, int]]:
        """Of rows (event time, known at), in seconds, those that are still seen."""
        frame = pl.DataFrame(rows, schema=["sold_at", "known_at"], orient="row").with_columns(
            (pl.all() * US_PER_S).cast(pl.Datetime("us", "UTC")), shop=pl.lit("north")
        )
        seen = still_seen(test_late.newest, frame, 100 * US_PER_S, known_us=None).select(
            pl.col("sold_at", "known_at").dt.epoch("s")
        )
        return seen.rows()

    assert kept((1, 50), (2, 51)) == [(1, 50), (2, 51)]
    assert kept((1, 50), (2, 50)) == [(2, 50)]
    assert kept((1, 50), (2, 49)) == [(2, 49)]
    assert kept((1, 50), (2, 51), (3, 49)) == [(3, 49)]
    assert kept((1, 50), (2, 51), (2, 49)) == [(2, 51), (2, 49)]
    assert kept((2, 60), (1, 55), (3, 70)) == [(2, 60), (1, 55), (3, 70)]


sales = F.source("sales", key="shop", time="at", zone="UTC")


@F.view(sales)
class sums:
    total = F.sum("price", window="1m")


@F.view(sales)
class kinds:
    kind: str = F.latest("kind")
    dear: bool = F.latest("dear")
    price: float = F.latest("price")


@F.view(sales)
class made:
    word: str

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(word=pl.col("kind") + "é")


def sold(count: int, begin: int = 0) -> list[dict[str, Any]]:
    return [
        {"shop": f"s{i % 5}", "at": after(i), "price": i / 3, "kind": "ä" * (i % 3), "dear": i % 2 == 0}
        for i in range(begin, begin + count)
    ]


LABELS = pl.DataFrame({"shop": ["s0", "s1", "s9", "s0", None] * 4, "at": [after(i) for i in range(20)]})
PLAN = Plan(workers=2, buckets=3, bucket_bytes=700, batch_rows=7, label_rows=3)


@pytest.mark.slow
@pytest.mark.parametrize("view", [sums, kinds, made])
def test_rows_come_from_the_tables_of_sources_and_transforms(tmp_path: Path, view: View) -> None:
    store = open_store(tmp_path)
    for begin in (0, 20, 40):
        store.ingest(sales, sold(20, begin))
    store.apply(view)
    rows = ViewRows(tmp_path, InProcess(), StillClock())
    wanted = offline.join(LABELS, [view], time="at", rows_of=rows.of)
    table = rows.view_table(view) if view.code else rows.source_table(sales)
    found = in_buckets(LABELS, Rows.of(view, table), PLAN)
    assert found.equals(wanted)
    assert found.schema == wanted.schema
    store.close()


def test_the_result_outlives_its_files(tmp_path: Path) -> None:
    held = test_offline.rows_of(
        test_offline.newest, [Event(entity=("north", 1), time_us=START_US, id=0, values={"price": 2.0, "stock": 1})]
    )
    found = in_buckets(test_offline.asked([("north", 1, START_US)] * 3), hold(test_offline.newest, held), PLAN)
    assert found["newest.price"].to_list() == [2.0] * 3


def test_events_of_one_time_are_joined_whole_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    events = [
        Event(entity=("north", 1), time_us=START_US, id=i, values={"price": float(i), "stock": 1}) for i in range(100)
    ]
    asked = test_offline.asked([("north", 1, START_US + 1)])
    with caplog.at_level(logging.WARNING):
        check(test_offline.newest, test_offline.rows_of(test_offline.newest, events), asked, PLAN)
    assert "view 'newest': rows of 0 MiB must be joined at once" in caplog.text


def test_a_key_of_another_type_is_refused_before_any_work(tmp_path: Path) -> None:
    held = test_offline.rows_of(test_offline.newest, [])
    asked = test_offline.asked([("north", 1, START_US)]).cast({"item": pl.String})
    with pytest.raises(InvalidInput, match="key 'item' is String, and source 'events' has it as Int64"):
        in_buckets(asked, hold(test_offline.newest, held), PLAN)


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Held, "size", lambda self: Size(rows=2**50, width=8, columns=1))
    held = test_offline.rows_of(test_offline.newest, [])
    with pytest.raises(Refused, match=r"needs about 8589934592 MiB of disk for a while, and .* make room there"):
        in_buckets(test_offline.asked([("north", 1, START_US)]), hold(test_offline.newest, held), PLAN)


@pytest.mark.parametrize(("limit", "tasks"), [(2**30, []), (64 * 2**20, ["Scatter", "JoinBucket"])])
def test_a_view_is_joined_in_buckets_if_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, tasks: list[str]
) -> None:
    store = open_store(tmp_path)
    store.ingest(sales, sold(20))
    store.apply(kinds)
    monkeypatch.setattr(Rows, "size", lambda self: Size(rows=1_000_000, width=100, columns=10))
    ran: list[str] = []

    def run(given: Sequence[Task], workers: int) -> None:
        ran.extend(dict.fromkeys(type(task).__name__ for task in given))
        one_by_one(given, workers)

    rows = ViewRows(tmp_path, InProcess(), StillClock())
    joiner = Joiner(root=tmp_path / "tmp", limit=limit, made=1000, workers=2, run=run)
    found = joiner.columns(LABELS, kinds, time="at", table=rows.source_table(sales), rows_of=rows.of)
    assert LABELS.hstack(found).equals(offline.join(LABELS, [kinds], time="at", rows_of=rows.of))
    assert ran == tasks
    store.close()


def test_a_source_without_data_and_no_labels_are_joined_in_memory(tmp_path: Path) -> None:
    joiner = Joiner(root=tmp_path / "tmp", limit=0, made=0, workers=2, run=one_by_one)
    empty = offline.empty_rows(kinds, {"shop": pl.String()})
    nowhere = EventTable(tmp_path / "nowhere")
    found = joiner.columns(LABELS, kinds, time="at", table=nowhere, rows_of=lambda _: empty)
    assert [column.null_count() for column in found] == [LABELS.height] * 3
    none = bucket_join.columns(LABELS.clear(), hold(kinds, empty), time="at", plan=PLAN, root=tmp_path, run=one_by_one)
    assert [column.dtype for column in none] == [pl.String, pl.Boolean, pl.Float64]
