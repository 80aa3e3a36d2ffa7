"""A cluster and its work in parts, and what came of the parts as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.cluster.budget import Bill
from mlplat.cluster.shards import Shard, merged, simulate, split
from mlplat.cluster.simulation import simulate as unsharded
from mlplat.cluster.spec import parse, problems
from mlplat.cluster.world import Arrival, Outcome, Settings
from mlplat.errors import InvalidInput
from mlplat.testing.lab import config
from tests.cluster.support import US, arrival


def cluster(own: Sequence[int], bought: Sequence[int], more: int, **budget: Any) -> dict[str, Any]:
    """Types of so many own and bought machines, and room for `more` bought ones in all."""
    given = config(**budget)
    types = given["available_node_types"]
    onprem, cloud = types.pop("onprem.gpu"), types.pop("cloud.gpu")
    for number, count in enumerate(bought):
        types[f"cloud.{number}"] = {**cloud, "max_workers": count, "min_workers": count // 2}
    for number, count in enumerate(own):
        node = {"hosts": [f"h{number}-{host}" for host in range(count)]}
        types[f"own.{number}"] = {**onprem, "node_config": node, "max_workers": count, "min_workers": count // 2}
    given["max_workers"] = sum(own) + more
    return given


counts = st.lists(st.integers(0, 30), min_size=1, max_size=3)
limits = st.fixed_dictionaries(
    {},
    optional={
        "per_hour": st.decimals(0, 500, places=2).map(float),
        "per_day": st.integers(0, 5_000),
        "nodes": st.integers(0, 40),
        "gpus": st.integers(0, 160) | st.just(2.5),
    },
)
parts = st.integers(1, 12)


@pytest.mark.slow
@given(own=counts, bought=counts, more=st.integers(0, 60), budget=limits, shards=parts)
def test_machines_and_limits_of_shards_are_those_of_the_cluster(
    own: list[int], bought: list[int], more: int, budget: dict[str, Any], shards: int
) -> None:
    whole = cluster(own, bought, more, **budget)
    found = [shard.config for shard in split(whole, [], shards)]
    assert [problems(one) for one in found] == [[] for _ in range(shards)]
    assert sum(one["max_workers"] for one in found) == whole["max_workers"]
    for name, kind in whole["available_node_types"].items():
        if name == "head":
            assert all(one["available_node_types"][name] == kind for one in found)
            continue
        mine = [one["available_node_types"][name] for one in found]
        for limit in ("min_workers", "max_workers"):
            assert sum(one[limit] for one in mine) == kind[limit]
            assert max(one[limit] for one in mine) - min(one[limit] for one in mine) <= 1
        hosts = [host for one in mine for host in one["node_config"].get("hosts", ())]
        assert sorted(hosts) == sorted(kind["node_config"].get("hosts", ()))
    for name, limit in budget.items():
        shares = [one["provider"]["budget"][name] for one in found]
        assert sum(round(share * 10_000) for share in shares) == round(limit * 10_000)
    assert sum(parse(one).cloud.most for one in found) == parse(whole).cloud.most
    sizes = [sum(kind.most for kind in parse(one).cloud.own) for one in found]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
@given(names=st.lists(st.text(min_size=1), unique=True, max_size=50), shards=parts)
def test_each_job_is_in_one_shard_which_does_not_depend_on_the_others(names: list[str], shards: int) -> None:
    whole, work = cluster([12], [12], 12), [arrival(name) for name in names]
    found = split(whole, work, shards)
    assert Counter(one.job.id for shard in found for one in shard.arrivals) == Counter(names)
    assert [list(shard.arrivals) for shard in found] == [
        [one for one in work if one in alone[at]] for alone in [_alone(whole, work, shards)] for at in range(shards)
    ]


def _alone(whole: dict[str, Any], work: list[Arrival], shards: int) -> list[list[Arrival]]:
    """Each job's shard, if there were no other job."""
    found: list[list[Arrival]] = [[] for _ in range(shards)]
    for one in work:
        for at, shard in enumerate(split(whole, [one], shards)):
            found[at] += shard.arrivals
    return found


def test_jobs_of_a_tenant_are_spread_over_all_shards() -> None:
    found = split(cluster([40], [0], 0), [arrival(f"line-{number}") for number in range(4_000)], 8)
    assert all(400 < len(shard.arrivals) < 600 for shard in found)


def test_one_shard_is_the_cluster_as_it_is() -> None:
    whole, work = cluster([3], [3], 3, per_hour=1.00001), [arrival("a", 99)]
    assert split(whole, work, 1) == (Shard(config=whole, arrivals=tuple(work)),)


@pytest.mark.parametrize(
    ("whole", "most"),
    [
        (cluster([8], [0], 0), 2),  # 8 machines of 4 GPUs
        (cluster([1], [8], 8), 2),
        (cluster([1], [8], 8, nodes=4), 1),
        (cluster([1], [8], 8, gpus=16), 1),
        (cluster([1], [8], 8, per_hour=8.0), 2),  # four machines of 1.0 an hour
        (cluster([1], [8], 4), 1),
    ],
)
def test_a_job_that_its_shard_could_never_run_is_refused_with_the_most_shards_that_would_do(
    whole: dict[str, Any], most: int
) -> None:
    work = [arrival("small"), arrival("large", 16)]
    with pytest.raises(InvalidInput, match=rf"'large' asks for 16 x 1 CPU, 1 GPU.* {most} is the most shards"):
        split(whole, work, 8)
    assert len(split(whole, work, most)) == most


def test_a_job_that_the_cluster_could_never_run_is_refused_as_such() -> None:
    with pytest.raises(InvalidInput, match=r"'large' asks for 99 .* one asks for more than the whole cluster has"):
        split(cluster([8], [4], 4), [arrival("large", 99)], 4)


def test_there_is_one_shard_at_least() -> None:
    with pytest.raises(InvalidInput, match="0 shards"):
        split(config(), [], 0)


def test_outcomes_are_added_and_a_machine_that_is_left_is_paid_for_until_its_shard_ends() -> None:
    open_bill = Bill(began_us=0, ended_us=None, price=3.0, gpus=2.0)
    early = Outcome(began_us={"a": 1}, ended_us={"a": 5}, bills=[open_bill], misplaced=1, moved=2, lost_s=3.0, ticks=4)
    late = replace(early, began_us={"b": 2}, ended_us={"b": 9})
    early.until_us, late.until_us = 3_600 * US, 7_200 * US
    both = merged([early, late])
    assert (both.began_us, both.ended_us) == ({"a": 1, "b": 2}, {"a": 5, "b": 9})
    assert (both.misplaced, both.moved, both.lost_s, both.ticks, both.until_us) == (2, 4, 6.0, 8, 7_200 * US)
    assert both.cost == early.cost + late.cost == 9.0
    assert both.gpu_hours == early.gpu_hours + late.gpu_hours
    assert merged([late]) == late


def load() -> list[Arrival]:
    """More than four own machines of four GPUs have at a time."""
    return [arrival(f"line-{at}", 1 + at % 4, tenant="ab"[at % 2], at_s=at * 60, work_s=5_400) for at in range(12)]


def own_and_bought() -> dict[str, Any]:
    whole = cluster([4], [8], 8)
    whole["provider"]["burst"] = {"wait_s": 600}
    whole["available_node_types"]["cloud.0"]["min_workers"] = 0
    return whole


@pytest.mark.slow
def test_one_shard_has_the_outcome_of_the_cluster_in_one_piece(tmp_path: Path) -> None:
    whole = unsharded(own_and_bought(), load(), ledger=f"{tmp_path}/machines.db", settings=Settings())
    assert whole.bills
    assert simulate(own_and_bought(), load(), shards=1, processes=2) == whole


@pytest.mark.slow
def test_the_outcome_is_the_same_in_one_process_and_in_two(tmp_path: Path) -> None:
    calls: list[None] = []
    one = simulate(own_and_bought(), load(), shards=2, processes=1, done=lambda: calls.append(None))
    two = simulate(own_and_bought(), load(), shards=2, processes=2, done=lambda: calls.append(None))
    assert one == two
    assert len(calls) == 4
    assert one.ended_us.keys() == {each.job.id for each in load()}
    assert one.bills
    assert one.misplaced == 0
