"""The training rig beside torch by hand: steps, scaling, start, data, checkpoints, kills, loading."""

from __future__ import annotations

from benchmarks._figures import Measure, main
from benchmarks._training import checkpoints, kills, load, start, steps

MEASURES = (
    Measure(
        key="step_ddp",
        measure="one step of the flights network, batch 1,024 on two workers of one thread, by blocks of 100",
        unit="ms",
        reference_name="DDP by hand in the same processes",
        bound=1.05,
        run=steps.against_ddp,
    ),
    Measure(
        key="scaling_two",
        measure="rows per second of two workers, 1,024 rows each, 1.6 million weights, one thread each",
        unit="rows/s",
        reference_name="one worker",
        bound=1.6,
        at="least",
        run=steps.scaling,
    ),
    Measure(
        key="start_local",
        measure="train() to the first step in process, 100k rows x 30",
        unit="s",
        reference_name="on two Ray workers",
        bound=0.05,
        run=start.local,
    ),
    Measure(
        key="pipeline",
        measure="rows per second from a table of 5M rows x 30, second epoch, the flights network's step",
        unit="rows/s",
        reference_name="tensors in memory, by hand",
        bound=0.9,
        at="least",
        run=steps.from_tables,
    ),
    Measure(
        key="checkpoint_stall",
        measure="time lost to a checkpoint of 200 MB that is written beside the training",
        unit="s",
        reference_name="torch.save + a synchronous ray.train.report",
        bound=0.15,
        run=checkpoints.stall,
    ),
    Measure(
        key="checkpoint_share",
        measure="share of the run's time that checkpoints of 200 MB cost at the interval that it chooses",
        unit="",
        reference_name=None,
        bound=0.035,
        run=checkpoints.share,
    ),
    Measure(
        key="kill_worker",
        measure="ten kill -9 of a worker at random steps: most steps done twice over the interval; weights as undisturbed",
        unit="steps",
        reference_name="the interval",
        bound=1.0,
        run=kills.worker,
    ),
    Measure(
        key="kill_driver",
        measure="kill -9 of the driver, the same call again: completed epochs repeated; weights as undisturbed",
        unit="epochs",
        reference_name=None,
        bound=0.0,
        run=kills.driver,
    ),
    Measure(
        key="load_spec",
        measure="a fresh process until it has loaded the flights network, in the vocabulary, and answered a row",
        unit="s",
        reference_name="plain torch with the module's code",
        bound=1.3,
        run=load.spec,
    ),
    Measure(
        key="load_export",
        measure="the same of a module of the user's own, kept as a program",
        unit="s",
        reference_name="plain torch with the module's code",
        bound=3.0,
        run=load.exported,
    ),
)


if __name__ == "__main__":
    main("training", MEASURES)
