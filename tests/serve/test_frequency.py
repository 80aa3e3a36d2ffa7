from __future__ import annotations

from collections import Counter
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from mlplat.serve.frequency import Frequency

KEYS = [blake2b(bytes([i]), digest_size=16).digest() for i in range(8)]


@given(st.lists(st.sampled_from(KEYS), max_size=63))
def test_before_anything_is_forgotten_keys_without_a_common_counter_are_counted_exactly(asked: list[bytes]) -> None:
    frequency = Frequency(0)
    for key in asked:
        frequency.ask(key)
    assert {key: frequency.of(key) for key in KEYS} == {key: Counter(asked)[key] for key in KEYS}


def test_counts_are_halved_once_in_as_many_asks_as_there_are_counters() -> None:
    frequency, counters = Frequency(4_096), 4_096
    for _ in range(40):
        frequency.ask(KEYS[0])
    counts = []
    for _ in range(3):
        for _ in range(counters):
            frequency.ask(KEYS[1])
        counts.append(frequency.of(KEYS[0]))
    assert counts == [20, 10, 5]


def test_a_count_stops_at_the_most_that_a_byte_holds() -> None:
    frequency = Frequency(1 << 20)
    for _ in range(1_000):
        frequency.ask(KEYS[0])
    assert 128 <= frequency.of(KEYS[0]) <= 255


@given(st.integers(0, 1 << 24))
def test_it_takes_the_memory_that_it_may_and_at_least_half_of_it(max_bytes: int) -> None:
    taken = len(Frequency(max_bytes)._counts)
    assert taken == 4_096 or max_bytes / 2 < taken <= max_bytes
