from __future__ import annotations

from typing import Any

import numpy as np

from mlplat.jobs.job import Job, Node
from mlplat.jobs.room import Nodes

NODES = Nodes(
    [
        Node(id="small", total={"GPU": 2, "CPU": 8}),
        Node(id="large", total={"GPU": 8, "CPU": 8}, labels={"site": "office"}),
        Node(id="plain", total={"CPU": 16}),
    ]
)


def placed(count: int, each: dict[str, float], **given: Any) -> dict[str, int] | None:
    job = Job(id="j", tenant="a", pool="p", submitted_us=0, each=tuple(each.items()), **given)
    shape = NODES.shape(job)
    found = None if shape is None else NODES.place(NODES.total, shape, count)
    return None if found is None else dict(found)


def test_bundles_go_to_as_few_nodes_as_can_be_and_the_fullest_of_those() -> None:
    assert placed(2, {"GPU": 1}) == {"small": 2}
    assert placed(3, {"GPU": 1}) == {"large": 3}
    assert placed(9, {"GPU": 1}) == {"large": 8, "small": 1}
    assert placed(11, {"GPU": 1}) is None


def test_every_resource_and_label_counts() -> None:
    assert placed(3, {"GPU": 1, "CPU": 4}) == {"small": 2, "large": 1}
    assert placed(5, {"GPU": 1, "CPU": 4}) is None
    assert placed(1, {"GPU": 1}, labels=(("site", "office"),)) == {"large": 1}
    assert placed(1, {"FPGA": 1}) is None


def test_tenths_of_a_slot_add_up() -> None:
    assert placed(20, {"GPU": 0.1}) == {"small": 20}
    assert placed(21, {"GPU": 0.1}) == {"large": 21}


def test_what_is_on_a_node_that_is_gone_is_nowhere() -> None:
    grid = NODES.total.copy()
    shape = NODES.shape(Job(id="j", tenant="a", pool="p", submitted_us=0, each=(("GPU", 1.0),)))
    assert shape is not None
    NODES.add(grid, shape, [("gone", 3)], -1)
    assert np.array_equal(grid, NODES.total)
