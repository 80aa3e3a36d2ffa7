from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput, Refused
from mlplat.jobs.demand import Demand, check, waiting_for

TWO_CORES = {"CPU": 2.0, "memory": 8e9}


@pytest.mark.parametrize(
    ("text", "device", "count"),
    [
        ("cpu:2", "cpu", 2),
        ("gpu:1", "gpu", 1),
        ("cpu", "cpu", 1),
        ("gpu", "gpu", 1),
        ("cpu:0", "cpu", 0),
        (" CPU:4 ", "cpu", 4),
    ],
)
def test_every_documented_form_parses(text: str, device: str, count: int) -> None:
    demand = Demand.parse(text)
    assert (demand.device, demand.count) == (device, count)


@pytest.mark.parametrize(
    "text", ["", "2", "cpu:", "cpu:-1", "cpu:two", "tpu:1", "cpu:1.5", "gpu:0", "cpu:2,gpu:1", "cpu:²", None, 2]
)
def test_bad_syntax_is_answered_with_examples(text: object) -> None:
    with pytest.raises(InvalidInput, match='"cpu:2"'):
        Demand.parse(text)  # type: ignore[arg-type]


@given(st.sampled_from(["cpu", "gpu"]), st.integers(1, 999))
def test_a_demand_prints_as_what_it_parses_from(device: str, count: int) -> None:
    text = f"{device}:{count}"
    assert str(Demand.parse(text)) == text


@pytest.mark.parametrize("text", ["cpu:16", "gpu:1"])
def test_a_demand_that_can_never_be_held_is_refused_with_what_exists(text: str) -> None:
    with pytest.raises(Refused, match="can never run here") as refused:
        check(Demand.parse(text), TWO_CORES)
    assert text in str(refused.value)
    assert "2 CPU, 0 GPU" in str(refused.value)


@pytest.mark.parametrize("text", ["cpu:0", "cpu:1", "cpu:2"])
def test_a_demand_within_the_total_is_accepted(text: str) -> None:
    check(Demand.parse(text), TWO_CORES)


def test_a_demand_that_waits_says_for_what() -> None:
    assert (
        waiting_for(Demand.parse("cpu:2"), {"CPU": 0.5}) == "cpu:2 waits for 1.5 more CPU: 0.5 of the 2 wanted are free"
    )


def test_a_demand_that_can_start_waits_for_nothing() -> None:
    assert waiting_for(Demand.parse("cpu:2"), TWO_CORES) is None
    assert waiting_for(Demand.parse("cpu:0"), {}) is None
