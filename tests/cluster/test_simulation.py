"""A cluster's work under a simulated clock, with Ray's own autoscaler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mlplat.cluster import simulation
from mlplat.cluster.budget import Bill
from mlplat.cluster.simulation import simulate
from mlplat.cluster.spec import parse
from mlplat.cluster.world import Arrival, Lost, Outcome, Settings
from mlplat.testing.lab import config
from tests.cluster.support import US, arrival

pytestmark = pytest.mark.slow
SETTINGS = Settings(boot_s=120.0, checkpoint_s=5.0, restart_s=60.0, every_s=600.0)


def ran(
    folder: Path,
    arrivals: list[Arrival],
    burst: dict[str, Any] | None = None,
    budget: dict[str, float] | None = None,
    **given: Any,
) -> Outcome:
    """Two own machines of four GPUs; bought ones of four GPUs too."""
    ledger = str(folder / "machines.db")
    asked = config(ledger, **budget or {})
    asked["provider"]["burst"] = burst or {}
    asked["available_node_types"]["cloud.gpu"]["idle_timeout_s"] = 60
    return simulate(asked, arrivals, ledger=ledger, settings=SETTINGS, **given)


def hours(outcome: Outcome, name: str) -> tuple[float, float]:
    return outcome.began_us[name] / US / 3_600, outcome.ended_us[name] / US / 3_600


def test_what_fits_on_own_machines_buys_nothing(tmp_path: Path) -> None:
    outcome = ran(tmp_path, [arrival("a", 4), arrival("b", 4), arrival("c", 8, at_s=3_700)])
    assert not outcome.bills
    assert hours(outcome, "c") == pytest.approx((3_700 / 3_600, 7_300 / 3_600), abs=0.02)


def test_a_machine_that_never_joins_is_ended_and_another_is_bought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins = simulation._Run._booted
    monkeypatch.setattr(
        simulation._Run, "_booted", lambda run, name, kind: None if name == "cloud-0" else joins(run, name, kind)
    )
    full = arrival("full", 8, work_s=24 * 3_600)
    outcome = ran(tmp_path, [full, arrival("a", 4, at_s=60)], {"wait_s": 0}, from_us=0)
    lied, came = sorted(outcome.bills, key=lambda bill: bill.began_us)
    assert lied.ended_us is not None
    assert 3_600 <= (lied.ended_us - lied.began_us) / US < 3_600 + 360  # Ray is so patient
    assert came.began_us == lied.ended_us
    assert outcome.began_us["a"] == came.began_us + SETTINGS.boot_s * US


def test_who_waits_too_long_is_bought_a_machine_that_is_given_back(tmp_path: Path) -> None:
    full = arrival("full", 8, work_s=8 * 3_600)
    outcome = ran(tmp_path, [full, arrival("a", 4, at_s=60)], {"wait_s": 1_200}, from_us=0)
    began, _ = hours(outcome, "a")
    assert began * 3_600 == pytest.approx(60 + 600 + SETTINGS.boot_s, abs=3 * SETTINGS.period_s)
    (bill,) = outcome.bills
    assert bill.ended_us is not None
    held_s = (bill.ended_us - bill.began_us) / US
    assert held_s == pytest.approx(SETTINGS.boot_s + 3_600 + 60, abs=4 * SETTINGS.period_s)
    assert outcome.bought[0].free_gpus == 0


def test_work_goes_back_as_soon_as_it_can_and_no_machine_is_left(tmp_path: Path) -> None:
    arrivals = [arrival("full", 8, work_s=3_600), arrival("long", 4, at_s=10, work_s=10 * 3_600)]
    away = ran(tmp_path, arrivals, {"wait_s": 0})
    assert [one.bought for one in away.ran if one.job.id == "long"] == [True, False]
    assert away.gpu_hours < 5
    (tmp_path / "machines.db").unlink()
    assert ran(tmp_path, arrivals, {"wait_s": 0, "back": False}).gpu_hours > 40


def test_machines_that_are_lost_all_at_once_cost_no_more_than_the_last_checkpoint(tmp_path: Path) -> None:
    arrivals = [arrival("full", 8, work_s=5 * 3_600), arrival("a", 4, at_s=10), arrival("b", 8, at_s=10)]
    lost = Lost(site="cloud", at_us=round(2_000 * US))
    outcome = ran(tmp_path, arrivals, {"wait_s": 0, "back": False}, losses=[lost])
    assert outcome.ended_us.keys() == {"full", "a", "b"}
    assert 0 < outcome.lost_s <= 2 * SETTINGS.every_s
    again = [one for one in outcome.ran if one.job.id == "b"][1]
    assert (again.began_us - lost.at_us) / US <= SETTINGS.boot_s + 3 * SETTINGS.period_s


def test_a_budget_is_kept_also_by_what_runs_and_work_goes_on_when_there_is_money_again(tmp_path: Path) -> None:
    evening_s = 20 * 3_600.0
    arrivals = [
        arrival("full", 8, at_s=evening_s - 60, work_s=12 * 3_600),
        arrival("a", 4, at_s=evening_s, work_s=5 * 3_600),
    ]
    outcome = ran(tmp_path, arrivals, {"wait_s": 0, "back": False}, {"per_day": 3.0})
    day_us = 24 * 3_600 * US
    spent = [sum(bill.spent(day * day_us, (day + 1) * day_us) for bill in outcome.bills) for day in range(2)]
    assert spent[0] == pytest.approx(3, abs=0.1)
    assert max(spent) <= 3
    assert [round((one.began_us - day_us) / US / 3_600) for one in outcome.ran if one.job.id == "a"] == [-4, 0]
    assert outcome.lost_s == 0


def test_spot_that_is_gone_costs_no_second_call(tmp_path: Path) -> None:
    outcome = ran(
        tmp_path,
        [arrival("full", 8), arrival("a", 4, at_s=10)],
        {"wait_s": 0, "back": False},
        capacity=lambda node: 0 if node["zone"] in {"a", "b"} else 9,
    )
    assert [bill.price for bill in outcome.bills if bill.ended_us != bill.began_us] == [4.0]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_comes_nothing_is_bought_while_it_fits_and_all_work_is_done(tmp_path: Path, seed: int) -> None:
    draw, at_s, arrivals = Random(seed), 0.0, []
    for number in range(30):
        at_s += draw.expovariate(1 / 1_500)
        work_s = draw.lognormvariate(8.0, 1.2)
        arrivals.append(arrival(f"j{number}", draw.choice([1, 1, 2, 4, 8]), at_s=at_s, work_s=work_s))
    outcome = ran(tmp_path, arrivals, {"wait_s": 1_800})
    assert outcome.ended_us.keys() == {one.job.id for one in arrivals}
    assert outcome.misplaced == 0
    assert max((one.free_gpus for one in outcome.bought), default=0) == 0
    for one in arrivals:
        taken = sum(span.ended_us - span.began_us for span in outcome.ran if span.job.id == one.job.id) / US
        assert taken >= one.work_s - 1
    assert outcome.lost_s == 0


def lab_with_prices(ledger: str) -> dict[str, Any]:
    """Bought machines of one GPU in two regions, and what a GB costs that leaves a place."""
    given = config(ledger)
    given["max_workers"] = 62
    given["provider"]["burst"] = {"wait_s": 3_600}
    given["provider"]["egress"] = {"onprem": 0.05, "fra": 0.09, "ohio": 0.09}
    types = given["available_node_types"]
    cloud = types.pop("cloud.gpu") | {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 30, "idle_timeout_s": 30}
    for region, price in (("ohio", 1.0), ("fra", 1.2)):
        offers = [{"site": "cloud", "price": price, "node": {"zone": region}}]
        labels = {"site": "cloud", "region": region}
        types[region] = cloud | {"labels": labels, "node_config": {"offers": offers}}
    return given


def work_with_data(seed: int, count: int) -> list[Arrival]:
    """Half of it reads nothing; the others about a hundred GB, from own disks or from a region."""
    draw, at_s, arrivals = Random(seed), 0.0, []
    for number in range(count):
        at_s += draw.expovariate(1 / 1_500)
        one = arrival(f"j{number}", draw.choice([1, 1, 2, 4, 8]), at_s=at_s, work_s=draw.lognormvariate(8.8, 1.0))
        place, size = draw.choice(["", "", "onprem", "fra"]), round(draw.lognormvariate(4.6, 1.2) * 1e9)
        arrivals.append(replace(one, job=replace(one.job, data=((place, size),) if place else ())))
    return arrivals


def test_to_look_at_data_costs_at_least_a_fifth_less_and_ends_work_no_more_than_a_tenth_later(tmp_path: Path) -> None:
    work, cost, ends = work_with_data(0, 24), [], []
    for name in ("looks", "does not"):
        ledger = str(tmp_path / f"{name}.db")
        given = lab_with_prices(ledger)
        cloud = parse(given).cloud
        outcome = simulate(
            given,
            work,
            ledger=ledger,
            settings=SETTINGS,
            cloud=cloud if name == "looks" else replace(cloud, egress={}),
        )
        assert outcome.misplaced == 0
        assert outcome.cost == pytest.approx(outcome.egress + sum(bill.price * spent_h(bill) for bill in outcome.bills))
        cost.append(outcome.cost)
        ends.append(sum(outcome.ended_us[one.job.id] - one.job.submitted_us for one in work))
    assert cost[0] < 0.8 * cost[1]
    assert ends[0] < 1.1 * ends[1]


def spent_h(bill: Bill) -> float:
    assert bill.ended_us is not None
    return (bill.ended_us - bill.began_us) / US / 3_600
