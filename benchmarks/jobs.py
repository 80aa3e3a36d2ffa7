"""Jobs that share scarce machines: how long a decision takes, and how fair, idle and gullible the plan is."""

from __future__ import annotations

from benchmarks._figures import Measure, main
from benchmarks._jobs import decision, simulated

MEASURES = (
    Measure(
        key="plan_time",
        measure="one decision, 10,000 queued jobs, 100 tenants, 1,000 slots, p95",
        unit="ms",
        reference_name="sorted() of the same queue, p95",
        bound=4.0,
        run=decision.time,
    ),
    Measure(
        key="jain_simulated",
        measure="Jain index of weighted service, ten tenants who flood eight slots, two days",
        unit="index",
        reference_name=None,
        bound=0.98,
        at="least",
        run=simulated.shared,
    ),
    Measure(
        key="off_share",
        measure="longest time that a tenant is more than a slot off its share, in minimum run times",
        unit="times",
        reference_name=None,
        bound=1.0,
        run=simulated.shared,
    ),
    Measure(
        key="idle_slots",
        measure="slot-seconds idle beyond a control period while something that fits waits, a day of gangs",
        unit="slot-seconds",
        reference_name=None,
        bound=0.0,
        run=simulated.idle,
    ),
    Measure(
        key="flood_gain",
        measure="service of a tenant with 1,000 jobs",
        unit="slot-seconds",
        reference_name="one with 10 that fill the same slots",
        bound=1.05,
        run=simulated.flood,
    ),
)


if __name__ == "__main__":
    main("jobs", MEASURES)
