"""What may be asked of a cluster, and what a cluster answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput, Refused
from mlplat.jobs.demand import Demand, check, lacks_labels, waiting_for

TWO_CORES = {"CPU": 2.0, "memory": 8e9}


@pytest.mark.parametrize(
    ("compute", "least", "count", "resources"),
    [
        ("cpu:2", 2, 2, {"CPU": 1}),
        ("gpu:1", 1, 1, {"GPU": 1}),
        ("cpu", 1, 1, {"CPU": 1}),
        ("gpu", 1, 1, {"GPU": 1}),
        ("cpu:0", 0, 0, {"CPU": 1}),
        (" CPU:4 ", 4, 4, {"CPU": 1}),
        ("gpu:2-8", 2, 8, {"GPU": 1}),
        ({"FPGA": 1}, 1, 1, {"FPGA": 1}),
        ({"workers": 2, "cpu": 4, "gpu": 1}, 2, 2, {"CPU": 4, "GPU": 1}),
        ({"workers": (1, 4)}, 1, 4, {"CPU": 1}),
    ],
)
def test_every_documented_form_parses(compute: Any, least: int, count: int, resources: dict[str, float]) -> None:
    demand = Demand.parse(compute)
    assert (demand.least, demand.count, dict(demand.resources)) == (least, count, resources)


@pytest.mark.parametrize(
    "compute",
    ["", "2", "cpu:", "cpu:-1", "cpu:two", "tpu:1", "cpu:1.5", "gpu:0", "cpu:2,gpu:1", "cpu:²", "cpu:4-2", "cpu:0-2", None, 2,
     {"workers": "2"}, {"workers": 0, "GPU": 1}, {"FPGA": 0}, {"FPGA": "1"}, {"labels": {"site": 1}}, {"workers": True},
     {"workers": -1}, {"workers": (-1, 2)}],
)  # fmt: skip
def test_bad_syntax_is_answered_with_examples(compute: object) -> None:
    with pytest.raises(InvalidInput, match='"cpu:2"'):
        Demand.parse(compute)  # type: ignore[arg-type]


@pytest.mark.parametrize("compute", ["cpu:0-4", {"workers": (0, 4)}, {"workers": [0, 4], "GPU": 0.25}])
def test_no_worker_at_times_is_a_demand_only_where_that_can_be(compute: Any) -> None:
    with pytest.raises(InvalidInput, match="asks for no worker"):
        Demand.parse(compute)
    demand = Demand.parse(compute, idle=True)
    assert (demand.least, demand.count, demand.in_process) == (0, 4, False)
    assert Demand.parse(demand.to_json(), idle=True) == demand
    assert str(Demand.parse("cpu:0-4", idle=True)) == "cpu:0-4"
    assert Demand.parse("cpu:0", idle=True).in_process
    with pytest.raises(InvalidInput, match="asks for no worker"):
        Demand.parse({"workers": 0, "GPU": 1}, idle=True)


@given(st.sampled_from(["cpu", "gpu"]), st.integers(1, 999), st.integers(0, 9))
def test_a_demand_prints_as_what_it_parses_from(device: str, least: int, more: int) -> None:
    text = f"{device}:{least}-{least + more}" if more else f"{device}:{least}"
    assert str(Demand.parse(text)) == text


def test_what_one_worker_gets_is_printed_whole() -> None:
    asked = Demand.parse({"workers": 2, "CPU": 4, "FPGA": 1, "labels": {"site": "office"}})
    assert str(asked) == "2 x (4 CPU, 1 FPGA, site=office)"
    assert asked.threads == 4


@pytest.mark.parametrize("text", ["cpu:16", "gpu:1"])
def test_a_demand_that_can_never_be_held_is_refused_with_what_exists(text: str) -> None:
    with pytest.raises(Refused, match="can never run here") as refused:
        check(Demand.parse(text), TWO_CORES)
    assert text in str(refused.value)
    assert "2 CPU, 0 GPU" in str(refused.value)


def test_any_resource_can_be_asked_for_and_missed() -> None:
    check(Demand.parse({"FPGA": 1}), {"FPGA": 1.0})
    with pytest.raises(
        Refused, match=r"asks for 2 FPGA, and the whole cluster has 1 \(all of it: 2 CPU, 0 GPU, 1 FPGA\)"
    ):
        check(Demand.parse({"workers": 2, "FPGA": 1}), {"CPU": 2.0, "FPGA": 1.0})


@pytest.mark.parametrize("text", ["cpu:0", "cpu:1", "cpu:2", "cpu:2-64"])
def test_a_demand_within_the_total_is_accepted(text: str) -> None:
    check(Demand.parse(text), TWO_CORES)


def test_a_demand_that_waits_says_for_what() -> None:
    assert (
        waiting_for(Demand.parse("cpu:2"), {"CPU": 0.5}) == "cpu:2 waits for 1.5 more CPU: 0.5 of the 2 wanted are free"
    )


def test_a_demand_that_can_start_waits_for_nothing() -> None:
    assert waiting_for(Demand.parse("cpu:2"), TWO_CORES) is None
    assert waiting_for(Demand.parse("cpu:0"), {}) is None


OFFICE, CLOUD = {"site": "office", "ray.io/node-id": "1"}, {"site": "cloud", "gpu": "h100"}


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"site": "office"},
        {"site": "cloud", "gpu": "h100"},
        {"site": "!office"},
        {"site": "in(a, office)"},
        {"rack": "!7"},
    ],
)
def test_labels_that_a_node_has_lack_nothing(labels: dict[str, str]) -> None:
    assert lacks_labels(Demand.parse({"labels": labels}), [OFFICE, CLOUD]) is None


@pytest.mark.parametrize(
    ("labels", "has"),
    [
        ({"site": "offcie"}, "nodes have site=cloud, site=office"),
        ({"gpu": "h100", "site": "office"}, "nodes have gpu=h100, site=cloud, site=office"),
        ({"site": "in(a,b)"}, "nodes have site=cloud, site=office"),
        ({"gpu": "h100", "site": "!cloud"}, "nodes have gpu=h100, site=cloud, site=office"),
        ({"rack": "7"}, "no node has a label 'rack'"),
    ],
)
def test_labels_that_no_node_has_are_told_with_what_there_is(labels: dict[str, str], has: str) -> None:
    asked = ", ".join(f"{name}={value}" for name, value in labels.items())
    demand = Demand.parse({"CPU": 1, "labels": labels})
    assert lacks_labels(demand, [OFFICE, CLOUD]) == (
        f"1 x (1 CPU, {asked}) asks for nodes with {asked}, and there is none: {has}"
    )
