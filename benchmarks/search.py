"""The search: what a trial costs, what a kill loses, and how good what it finds is."""

from __future__ import annotations

from benchmarks._figures import Measure, main
from benchmarks._search import flights, kills, many, overhead, preempted, table

MEASURES = (
    Measure(
        key="trial_overhead_tune",
        measure="a trial that does nothing, two workers, by Ray Tune as the search has it",
        unit="s",
        reference_name="plain Tune with OptunaSearch, reuse_actors=True",
        bound=1.1,
        run=overhead.overheads,
    ),
    Measure(
        key="trial_overhead_warm",
        measure="the same on processes that stay",
        unit="s",
        reference_name="plain Tune with OptunaSearch, reuse_actors=True",
        bound=0.05,
        run=overhead.overheads,
    ),
    Measure(
        key="trial_overhead_floor",
        measure="the same on processes that stay",
        unit="s",
        reference_name="two bare actors with Optuna's ask and tell",
        bound=1.5,
        run=overhead.overheads,
    ),
    Measure(
        key="killed_lost",
        measure="the driver killed -9 at 20 moments of 60-trial searches: trials lost, or done again beyond the one in flight",
        unit="trials",
        reference_name=None,
        bound=0.0,
        run=kills.killed,
    ),
    Measure(
        key="killed_trajectory",
        measure="searches of one trial at a time that took another way than undisturbed ones",
        unit="searches",
        reference_name=None,
        bound=0.0,
        run=kills.killed,
    ),
    Measure(
        key="trial_preempted",
        measure="a trial that gives way five times: steps done twice",
        unit="steps",
        reference_name=None,
        bound=0.0,
        run=preempted.trial,
    ),
    Measure(
        key="five_hundred",
        measure="500 small networks on one machine: the most memory of all processes together",
        unit="GiB",
        reference_name=None,
        bound=8.0,
        run=many.five_hundred,
    ),
    Measure(
        key="nas_tpe",
        measure="regret after 150 evaluations of NAS-Bench-201, CIFAR-10, 20 seeds, with the default strategy",
        unit="points",
        reference_name="Optuna's default TPE and one standard error",
        bound=1.0,
        run=table.regrets,
    ),
    Measure(
        key="nas_random",
        measure="the same",
        unit="points",
        reference_name="random",
        bound=0.25,
        run=table.regrets,
    ),
    Measure(
        key="asha_time",
        measure="60 small networks, rungs at 1, 3, 9 of 27 epochs: until one is as good as the best of all trained to their end",
        unit="s",
        reference_name="training all of them to their end",
        bound=0.4,
        run=many.early,
    ),
    Measure(
        key="flights_search",
        measure="the chained search on flights, selected on July and August, less the network by hand, log loss on September to "
        "December, resampled by day: the upper end of 95%",
        unit="nats",
        reference_name=None,
        bound=0.0,
        run=flights.chained,
    ),
)


if __name__ == "__main__":
    main("search", MEASURES, files={"table": "NAS-Bench-201, CIFAR-10: a Parquet file with arch, seed0, seed1, seed2"})
