"""What an objective counts and when a breach begins and ends, against the latencies themselves."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.serve.objective import CALM_S, LEAST_OVER, WINDOW_S, Change, Objective, Watch

P99 = Objective.parse("p99 < 50ms")
FAILED = math.inf


@pytest.mark.parametrize(
    ("text", "percent", "limit_us", "said"),
    [
        ("p99 < 50ms", "99", 50_000, "p99 < 50ms"),
        ("P99.9<1.5 s", "99.9", 1_500_000, "p99.9 < 1500ms"),
        (" p50 < 0.25ms ", "50", 250, "p50 < 0.25ms"),
    ],
)
def test_an_objective_is_a_percentile_and_a_time(text: str, percent: str, limit_us: int, said: str) -> None:
    found = Objective.parse(text)
    assert found == Objective(percent=Fraction(percent), limit_us=limit_us)
    assert str(found) == said
    assert Objective.parse(said) == found


@pytest.mark.parametrize(
    "text", ["", "50ms", "p99", "p99 < 50", "p0 < 1ms", "p100 < 1ms", "p99 > 1ms", "p99 < 0ms", "p9 < 61s", 5]
)
def test_what_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match='as in "p99 < 50ms"'):
        Objective.parse(text)


def slowest(latencies: list[float], percent: Fraction) -> float:
    """The percentile by the nearest rank."""
    return sorted(latencies)[math.ceil(percent / 100 * len(latencies)) - 1]


def changes_of(objective: Objective, seconds: list[list[float]]) -> list[tuple[int, bool]]:
    """The oracle: by the latencies themselves, of all seconds."""
    found: list[tuple[int, bool]] = []
    breached, calm_since = False, None
    for now in range(len(seconds)):
        window = [latency for second in seconds[max(0, now - WINDOW_S + 1) : now + 1] for latency in second]
        beyond = bool(window) and slowest(window, objective.percent) > objective.limit_us
        if not breached and beyond and sum(us > objective.limit_us for us in window) >= LEAST_OVER:
            breached, calm_since = True, None
            found.append((now, True))
        elif breached and beyond:
            calm_since = None
        elif breached and window:
            calm_since = now if calm_since is None else calm_since
            if now - calm_since >= CALM_S:
                breached = False
                found.append((now, False))
    return found


LATENCY = st.sampled_from([1.0, 49_999.0, 50_000.0, 50_001.0, 2e6, FAILED])
BUSY = st.lists(LATENCY, max_size=8)
QUIET = st.lists(st.sampled_from([1.0, 50_000.0]), min_size=0, max_size=40)
STRETCH = st.tuples(st.one_of(BUSY, QUIET), st.integers(1, 45)).map(lambda both: [both[0]] * both[1])


@pytest.mark.slow
@given(
    st.lists(STRETCH, max_size=8).map(lambda stretches: [second for stretch in stretches for second in stretch]),
    st.sampled_from(["p99", "p50", "p90", "p99.9"]),
    st.integers(1, 3),
)
def test_it_changes_when_the_percentile_of_the_latencies_says_so(
    seconds: list[list[float]], percentile: str, ticks: int
) -> None:
    objective = Objective.parse(f"{percentile} < 50ms")
    watch, found = Watch(objective), []
    for now, latencies in enumerate(seconds):
        for i in range(ticks):  # how often one looks within a second changes nothing, once all has come
            for us in latencies if i == 0 else ():
                watch.failed() if us == FAILED else watch.answered(int(us))
            change = watch.tick(1_000.0 + now + i / ticks)
            if change is not None:
                found.append((now, change.breached))
        window = [us for second in seconds[max(0, now - WINDOW_S + 1) : now + 1] for us in second]
        counted = watch.window
        assert counted.requests == len(window)
        assert (counted.over, counted.failed) == (sum(us > 50_000 for us in window), window.count(FAILED))
        assert len(watch._slots) <= WINDOW_S
    assert [change for _, change in found] == [True, False] * (len(found) // 2) + [True] * (len(found) % 2)
    assert found == changes_of(objective, seconds)


def asked(watch: Watch, second: int, *, good: int = 0, slow: int = 0) -> Change | None:
    for _ in range(good):
        watch.answered(1_000)
    for _ in range(slow):
        watch.answered(51_000)
    return watch.tick(float(second))


def test_a_breach_is_seen_in_the_second_that_it_begins_and_told_once() -> None:
    watch = Watch(P99)
    assert watch.state == "no data"
    assert [asked(watch, second, good=100) for second in range(60)] == [None] * 60
    assert watch.state == "healthy"
    found = [asked(watch, 60 + second, slow=100) for second in range(60)]
    assert found[0] is not None
    assert found[0].breached
    assert (found[0].window.requests, found[0].window.over) == (1_000, 100)
    assert found[1:] == [None] * 59
    assert watch.state == "breached"


def test_the_end_is_told_after_a_calm_and_not_at_every_good_second() -> None:
    watch = Watch(P99)
    assert asked(watch, 0, slow=10) is not None
    flapping = [asked(watch, second, good=10, slow=10 * (second % 20 == 0)) for second in range(1, 200)]
    assert flapping == [None] * 199
    ended = [asked(watch, second, good=10) for second in range(200, 300)]
    (end,) = [change for change in ended if change is not None]
    assert not end.breached
    assert end.lasted_s == pytest.approx(180 + WINDOW_S + CALM_S)
    assert watch.state == "healthy"


def test_silence_is_neither_a_breach_nor_the_end_of_one() -> None:
    watch = Watch(P99)
    assert [asked(watch, second) for second in range(100)] == [None] * 100
    assert watch.state == "no data"
    assert asked(watch, 100, slow=3) is not None
    assert [asked(watch, second) for second in range(101, 400)] == [None] * 299
    assert watch.state == "breached"


def test_one_slow_request_of_few_begins_nothing() -> None:
    watch = Watch(P99)
    assert [asked(watch, second, good=1, slow=second % 9 == 0) for second in range(100)] == [None] * 100


def test_a_look_that_comes_late_loses_nothing() -> None:
    watch = Watch(P99)
    assert asked(watch, 0, good=100) is None
    assert asked(watch, 60, slow=5) == Change(breached=True, window=watch.window)
    assert watch.window.requests == 5
