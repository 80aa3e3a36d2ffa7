"""Jobs that share scarce machines: how long a decision takes, and how fair, idle and gullible the plan is."""

from __future__ import annotations

from benchmarks._figures import Measure, main
from benchmarks._jobs import decision, real, simulated

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
        key="jain_real",
        measure="the same on a local cluster, two minutes of short jobs",
        unit="index",
        reference_name=None,
        bound=0.97,
        at="least",
        run=real.shared,
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
        key="production_start_s",
        measure="a production job on a full cluster, from submission to slots, the slowest of all",
        unit="s",
        reference_name=None,
        bound=1.5,
        run=real.production,
    ),
    Measure(
        key="flood_gain",
        measure="service of a tenant with 1,000 jobs",
        unit="slot-seconds",
        reference_name="one with 10 that fill the same slots",
        bound=1.05,
        run=simulated.flood,
    ),
    Measure(
        key="resume_lost",
        measure="steps done twice by a training that gives way five times",
        unit="steps",
        reference_name=None,
        bound=0.0,
        run=real.resumed,
    ),
    Measure(
        key="submit_rate",
        measure="jobs submitted and recorded, each durable when its call returns",
        unit="1/s",
        reference_name="bare inserts into the same database",
        bound=0.5,
        at="least",
        run=real.submitted,
    ),
)


if __name__ == "__main__":
    main("jobs", MEASURES)
