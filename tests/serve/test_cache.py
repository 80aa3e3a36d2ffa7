from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlplat.errors import InvalidInput
from mlplat.serve.cache import ENTRY_BYTES, Cache, row_keys

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf]),
    st.text(),
    st.sampled_from(["", "1", "1.0", "true", "null", "NaN", "inf", "~[None]", '","', "\0", "\ud800"]),
)
DIGEST, SUCCESSOR = "d" * 64, "e" * 64


def key_of(row: tuple[Any, ...], digest: str = DIGEST) -> bytes:
    (key,) = row_keys(digest, [[value] for value in row], 1)
    return key


def seen(row: tuple[Any, ...]) -> tuple[object, ...]:
    """What a model could see of a row."""
    return tuple(None if value is None or value != value else (type(value), repr(value)) for value in row)


@pytest.mark.slow
@given(st.data(), st.integers(0, 4))
def test_two_rows_have_one_key_if_and_only_if_no_model_can_tell_them_apart(data: st.DataObject, width: int) -> None:
    rows = st.tuples(*[VALUES] * width)
    one, other = data.draw(rows), data.draw(rows)
    assert (key_of(one) == key_of(other)) == (seen(one) == seen(other))


@pytest.mark.slow
@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(0, 3), VALUES)
def test_one_other_value_makes_another_key(row: list[Any], place: int, value: Any) -> None:
    changed = [*row]
    changed[place % len(row)] = value
    assert (key_of(tuple(row)) == key_of(tuple(changed))) == (seen(tuple(row)) == seen(tuple(changed)))


@pytest.mark.parametrize("other", [1.0, True, "1", None, math.inf, 2**64, "null"])
def test_values_that_look_alike_have_keys_of_their_own(other: object) -> None:
    assert key_of((1,)) != key_of((other,))


def test_null_and_nan_are_one_value_also_beside_infinity() -> None:
    assert key_of((None, 1.0)) == key_of((math.nan, 1.0))
    assert key_of((None, math.inf)) == key_of((math.nan, math.inf))
    assert len({key_of((value,)) for value in (None, math.inf, -math.inf)}) == 3


def test_text_does_not_move_between_columns() -> None:
    assert key_of(("ab", "c")) != key_of(("a", "bc"))


@pytest.mark.slow
@given(st.lists(st.tuples(VALUES, VALUES, VALUES)))
def test_the_keys_of_many_rows_are_those_of_each(rows: list[tuple[Any, ...]]) -> None:
    columns = [[row[i] for row in rows] for i in range(3)]
    assert row_keys(DIGEST, columns, len(rows)) == [key_of(row) for row in rows]


@pytest.mark.slow
@given(st.tuples(VALUES, VALUES))
def test_another_model_has_other_keys(row: tuple[Any, ...]) -> None:
    assert key_of(row) != key_of(row, SUCCESSOR)
    assert len(key_of(row)) == 16


def test_rows_without_inputs_are_all_one_row() -> None:
    first, second = row_keys(DIGEST, [], 2)
    assert first == second != key_of((None,))


def test_what_is_no_value_of_an_input_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"1j \(complex\) is not a value of a model's input"):
        key_of((1, 1j))


@pytest.mark.parametrize(("columns", "rows"), [([[1, 2]], 3), ([[1, 2]], 1), ([[1, 2], [1]], 2), ([[1], []], 1)])
def test_a_wrong_number_of_rows_is_refused(columns: list[list[int]], rows: int) -> None:
    with pytest.raises(InvalidInput, match=f"{rows} rows are asked for, and columns have"):
        row_keys(DIGEST, columns, rows)


class Clocks:
    """Wall time that jumps, and elapsed time that does not."""

    def __init__(self) -> None:
        self.wall_us, self.elapsed = 10**15, 0.0

    def now_us(self) -> int:
        return self.wall_us

    def elapsed_s(self) -> float:
        return self.elapsed


def named(name: object) -> bytes:
    return blake2b(repr(name).encode(), digest_size=16).digest()


KEYS = [named(i) for i in range(8)]
ROOM, TTL_S = 4 * (ENTRY_BYTES + 100), 10.0


class Slow:
    """What a cache does, said as plainly as can be. Entries in the order of last use: key, value, size, put at."""

    def __init__(self) -> None:
        self.entries: list[tuple[bytes, int, int, float]] = []
        self.asked: Counter[bytes] = Counter()
        self.won: Counter[bytes] = Counter()
        self.count: Counter[str] = Counter()

    def get(self, key: bytes, now_s: float) -> int | None:
        self.asked[key] += 1
        entry = self._taken_out(key)
        if entry is None or now_s - entry[3] >= TTL_S:
            self.count.update(["misses"] if entry is None else ["misses", "expired"])
            return None
        self.entries.append(entry)
        self.count["hits"] += 1
        return entry[1]

    def put(self, key: bytes, value: int, size: int, now_s: float) -> bool:
        if self._taken_out(key) is not None:
            self.count["replaced"] += 1
        while size <= ROOM and self.bytes + size > ROOM:
            oldest = self.entries[0]
            if now_s - oldest[3] >= TTL_S:
                self.count["expired"] += 1
            elif self.asked[oldest[0]] - self.won[oldest[0]] <= self.asked[key]:
                self.count["evicted"] += 1
            else:
                won = self.won[oldest[0]] + 1
                self._taken_out(oldest[0])
                self.entries.append(oldest)
                self.won[oldest[0]] = won
                break
            self._taken_out(oldest[0])
        kept = self.bytes + size <= ROOM
        self.count["inserted" if kept else "refused"] += 1
        if kept:
            self.entries.append((key, value, size, now_s))
        return kept

    def clear(self) -> None:
        self.count["cleared"] += len(self.entries)
        self.entries = []
        self.asked, self.won = Counter(), Counter()

    @property
    def bytes(self) -> int:
        return sum(entry[2] for entry in self.entries)

    def _taken_out(self, key: bytes) -> tuple[bytes, int, int, float] | None:
        self.won.pop(key, None)
        found = next((entry for entry in self.entries if entry[0] == key), None)
        self.entries = [entry for entry in self.entries if entry[0] != key]
        return found


class Coherence(RuleBasedStateMachine):
    """Fewer than 64 asks for eight keys that share no counter: the sketch is exact, and all that happens is foretold."""

    @initialize()
    def begin(self) -> None:
        self.clocks, self.slow, self.puts = Clocks(), Slow(), 0
        self.cache: Cache[int] = Cache(max_bytes=ROOM, ttl_s=TTL_S, clock=self.clocks)

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: bytes) -> None:
        assert self.cache.get(key) == self.slow.get(key, self.clocks.elapsed)

    @rule(key=st.sampled_from(KEYS), size=st.one_of(st.just(100), st.integers(0, ROOM)))
    def put(self, key: bytes, size: int) -> None:
        self.puts += 1
        kept = self.slow.put(key, self.puts, size + ENTRY_BYTES, self.clocks.elapsed)
        assert self.cache.put(key, self.puts, size) == kept

    @rule(key=st.sampled_from(KEYS))
    def ask_and_put(self, key: bytes) -> None:
        self.get(key)
        self.put(key, 100)

    @rule(by=st.sampled_from([0.5, 4.0, TTL_S]))
    def wait(self, by: float) -> None:
        self.clocks.elapsed += by

    @rule(by=st.integers(-(10**12), 10**12))
    def jump(self, by: int) -> None:
        self.clocks.wall_us += by

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.slow.clear()

    @invariant()
    def counts_are_exact(self) -> None:
        found = self.cache.counters()
        assert found.bytes == self.slow.bytes <= ROOM
        assert found.entries == len(self.slow.entries)
        for name in ("hits", "misses", "inserted", "refused", "replaced", "expired", "evicted", "cleared"):
            assert getattr(found, name) == self.slow.count[name], name
        left = found.replaced + found.expired + found.evicted + found.cleared
        assert found.entries == found.inserted - left


TestCoherence = pytest.mark.slow(Coherence.TestCase)


def cache_of(entries: int, ttl_s: float | None = None, clocks: Clocks | None = None) -> Cache[Any]:
    """For so many entries of 100 bytes."""
    return Cache(max_bytes=entries * (ENTRY_BYTES + 100), ttl_s=ttl_s, clock=clocks or Clocks())


def test_of_entries_that_were_asked_for_as_often_the_one_asked_for_longest_ago_makes_room() -> None:
    cache = cache_of(3)
    for key in KEYS[:3]:
        cache.put(key, key, 100)
    for key in (KEYS[1], KEYS[0], KEYS[2], KEYS[3]):
        cache.get(key)
    assert cache.put(KEYS[3], KEYS[3], 100)
    assert [cache.get(key) == key for key in KEYS[:4]] == [True, False, True, True]


def test_what_is_asked_for_often_outlives_twice_the_room_of_keys_that_come_once() -> None:
    cache, often = cache_of(1_000), [named(("often", i)) for i in range(100)]
    for round_ in range(5):
        for key in often * 4:
            if cache.get(key) is None:
                cache.put(key, 1, 100)
        for i in range(2_000):
            assert cache.get(named((round_, i))) is None
            cache.put(named((round_, i)), 1, 100)
    assert sum(cache.get(key) is not None for key in often) > 95


def test_the_answers_of_a_model_that_was_replaced_do_not_keep_its_successors_out() -> None:
    cache = cache_of(100)
    for model in ("old", "new"):
        for _ in range(30):
            for i in range(100):
                if cache.get(named((model, i))) is None:
                    cache.put(named((model, i)), model, 100)
        # Asked for a few times each, all of the successor's are in.
        assert [cache.get(named((model, i))) for i in range(100)] == [model] * 100


def test_a_contest_that_an_entry_won_counts_against_it_once_and_never_against_the_one_that_takes_its_place() -> None:
    cache = cache_of(1)
    old, new, newer = KEYS[:3]
    cache.put(old, "old", 100)
    for key in [old] * 3 + [new]:
        cache.get(key)
    assert not cache.put(new, "new", 100)  # asked for once, against 3
    cache.get(new)
    assert cache.put(new, "new", 100)  # twice, against 3 - 1
    cache.get(newer)
    assert not cache.put(newer, "newer", 100)  # once, against 2


def test_an_entry_is_gone_when_its_time_is_up_however_often_it_is_asked_for_and_whatever_the_wall_clock_says() -> None:
    clocks = Clocks()
    cache = cache_of(3, ttl_s=10.0, clocks=clocks)
    cache.put(KEYS[0], 1, 100)
    clocks.elapsed = 9.9
    clocks.wall_us += 10**12
    assert cache.get(KEYS[0]) == 1
    clocks.elapsed = 10.0
    clocks.wall_us -= 2 * 10**12
    assert cache.get(KEYS[0]) is None
    assert cache.counters().expired == 1


def test_without_a_time_to_live_entries_stay() -> None:
    clocks = Clocks()
    cache = cache_of(3, clocks=clocks)
    cache.put(KEYS[0], 1, 100)
    clocks.elapsed = 1e12
    assert cache.get(KEYS[0]) == 1


def test_an_entry_larger_than_all_the_room_is_refused_and_takes_nothing_with_it() -> None:
    cache = cache_of(2)
    cache.put(KEYS[0], 1, 100)
    assert not cache.put(KEYS[1], 2, 2 * (ENTRY_BYTES + 100) - ENTRY_BYTES + 1)
    assert cache.get(KEYS[0]) == 1


def test_what_was_put_before_is_gone_even_if_the_new_value_is_refused() -> None:
    cache = cache_of(2)
    cache.put(KEYS[0], "old", 100)
    assert not cache.put(KEYS[0], "new", 10**6)
    assert cache.get(KEYS[0]) is None


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = cache_of(0)
    assert not cache.put(KEYS[0], 1, 0)
    assert cache.get(KEYS[0]) is None


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": -1}, {"max_bytes": 1, "ttl_s": 0.0}, {"max_bytes": 1, "ttl_s": math.nan}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"{list(wrong)[-1]}="):
        Cache(clock=Clocks(), **wrong)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(InvalidInput, match="size_bytes=-1"):
        cache_of(1).put(KEYS[0], 1, -1)


def test_what_counts_for_an_entry_is_at_least_what_it_takes() -> None:
    keys = [named(i) for i in range(5_000)]
    taken = bytes(100)
    tracemalloc.start()
    try:
        cache: Cache[bytes] = Cache(max_bytes=len(keys) * ENTRY_BYTES, clock=Clocks())
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            cache.put(bytes(bytearray(key)), taken, 0)
        assert tracemalloc.get_traced_memory()[0] - before <= cache.counters().bytes
    finally:
        tracemalloc.stop()
    assert cache.counters().entries == len(keys)
