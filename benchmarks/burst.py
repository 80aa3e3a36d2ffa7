"""Bursting into the cloud: what it costs, what it never does, and what it survives."""

from __future__ import annotations

from benchmarks._burst import machines, raylets, simulated, ticks
from benchmarks._figures import Measure, main

MEASURES = (
    Measure(
        key="free_at_launch",
        measure="GPUs of own machines that what waits could have had when a machine was bought, the most; simulated, and raylets",
        unit="GPUs",
        reference_name=None,
        bound=0.0,
        run=raylets.rows,
    ),
    Measure(
        key="give_back_s",
        measure="from the end of the last work, over the idle timeout, until bought machines are given back; raylets",
        unit="s",
        reference_name=None,
        bound=10.0,
        run=raylets.rows,
    ),
    Measure(
        key="all_cloud_killed_s",
        measure="all bought machines killed at once: until all their work runs again; raylets",
        unit="s",
        reference_name=None,
        bound=60.0,
        run=raylets.rows,
    ),
    Measure(
        key="all_cloud_lost",
        measure="steps lost by that, beyond those since the last checkpoint",
        unit="steps",
        reference_name=None,
        bound=0.0,
        run=raylets.rows,
    ),
    Measure(
        key="misplaced",
        measure="jobs put on bought machines while they fitted on own ones",
        unit="jobs",
        reference_name=None,
        bound=0.0,
        run=simulated.costs,
    ),
    Measure(
        key="cost_bound_back",
        measure="GPU-hours bought, work moves back; the mean of five loads",
        unit="GPU-h",
        reference_name="the least that ends no job later",
        bound=1.05,
        run=simulated.costs,
    ),
    Measure(
        key="cost_bound",
        measure="the same, of work that cannot be stopped and so stays where it began",
        unit="GPU-h",
        reference_name="the least for the same beginnings",
        bound=1.15,
        run=simulated.costs,
    ),
    Measure(
        key="cost_at_once",
        measure="what bought machines cost; the mean of five loads",
        unit="money",
        reference_name="bursting at once",
        bound=0.75,
        run=simulated.costs,
    ),
    Measure(
        key="cost_starburst",
        measure="the same, with no more than 1.1 times the mean time to the end",
        unit="money",
        reference_name="Starburst's compute-wait rule",
        bound=1.0,
        run=simulated.costs,
    ),
    Measure(
        key="spot_exhausted",
        measure="no spot machines anywhere: calls of the provider until there is one on demand",
        unit="calls",
        reference_name=None,
        bound=1.0,
        run=machines.spot_exhausted,
    ),
    Measure(
        key="over_budget",
        measure="the most that was spent beyond a cap in an hour or a day, heads restarted all the time",
        unit="launches",
        reference_name=None,
        bound=1.0,
        run=machines.over_budget,
    ),
    Measure(
        key="plan_tick",
        measure="one look of the autoscaler, 1,000 nodes and 10,000 demands that wait",
        unit="s",
        reference_name="Ray's scheduling alone",
        bound=1.2,
        run=ticks.tick,
    ),
    Measure(
        key="leaked",
        measure="machines that are there and not written down, or the reverse, after 1,000 launches that fail and heads killed",
        unit="machines",
        reference_name=None,
        bound=0.0,
        run=machines.leaked,
    ),
)


if __name__ == "__main__":
    main("burst", MEASURES)
