"""The loop in this process: shards, steps, early stopping, divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput
from mlplat.model import InputEncoding, mlp
from mlplat.model.model import OUTPUTS
from mlplat.testing.learnable import learnable
from mlplat.train import loop
from mlplat.train.gang import Alone
from mlplat.train.loop import batches, learn, plan_for, rate_at
from mlplat.train.progress import EpochMetrics, Plan, Silent
from mlplat.train.rows import cut_before_end, times_of
from mlplat.train.settings import TrainSettings
from mlplat.train.shards import Work, load


class OneOf(Alone):
    """One worker of several, without the others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def work(folder: Path, settings: TrainSettings | None = None, **made: float) -> Work:
    data = learnable(folder, **made)  # type: ignore[arg-type]
    table = data.table()
    settings = settings or TrainSettings(batch_size=128, epochs=3, learning_rate=1e-2, holdout_s=48 * 86_400)
    return Work(
        path=data.path,
        label=data.label,
        time=data.time,
        cut_us=cut_before_end(times_of(table, data.time), settings.holdout_s),
        architecture=mlp((16,), dropout=0.1),
        encoding=InputEncoding.fit(table, data.signature(OUTPUTS).inputs()),
        settings=settings,
    )


def test_it_learns_and_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    one = work(tmp_path)
    first, second = (learn(one, Alone(), Silent(), SystemClock()) for _ in range(2))
    other = learn(replace(one, settings=replace(one.settings, seed=1)), Alone(), Silent(), SystemClock())
    assert max(m.auc for m in first.history) > 0.7
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert any(not np.array_equal(first.weights[name], other.weights[name]) for name in first.weights)


def test_the_callers_random_numbers_and_threads_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    learn(work(tmp_path, rows=500), Alone(), Silent(), SystemClock())
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.4, 0.45, 0.41, 0.3])
    monkeypatch.setattr(loop.evaluate, "log_loss", lambda *_: next(losses))
    settings = TrainSettings(batch_size=128, epochs=5, patience=2, holdout_s=48 * 86_400)
    learned = learn(work(tmp_path, settings), Alone(), Silent(), SystemClock())
    assert [m.log_loss for m in learned.history] == [0.5, 0.4, 0.45, 0.41]
    assert [m.best for m in learned.history] == [True, True, False, False]


def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path: Path) -> None:
    settings = TrainSettings(batch_size=128, epochs=2, learning_rate=1e35, holdout_s=48 * 86_400)
    with pytest.raises(InvalidInput, match=r"became (nan|inf) in epoch 1, step \d+.*learning_rate below 1e\+35"):
        learn(work(tmp_path, settings), Alone(), Silent(), SystemClock())


def test_progress_comes_in_order(tmp_path: Path) -> None:
    told: list[object] = []

    class Listening(Silent):
        def begin(self, plan: Plan) -> None:
            told.append(plan.total)

        def step(self, done: int, loss: float) -> None:
            told.append(done)

        def epoch(self, metrics: EpochMetrics) -> None:
            told.append(f"epoch {metrics.epoch}")

    learn(work(tmp_path), Alone(), Listening(), SystemClock())
    total = told[0]
    steps = [t for t in told[1:] if isinstance(t, int)]
    assert steps == sorted(steps)
    assert steps[-1] == total
    assert [t for t in told if isinstance(t, str)] == ["epoch 0", "epoch 1", "epoch 2"]


@given(st.integers(2, 3_000), st.integers(1, 8), st.integers(2, 512))
def test_every_worker_does_the_same_steps_on_rows_of_its_own(rows: int, workers: int, batch: int) -> None:
    settings = TrainSettings(batch_size=batch)
    if rows < workers:
        with pytest.raises(InvalidInput, match="too few"):
            plan_for(settings, rows, workers)
        return
    plan = plan_for(settings, rows, workers)
    assert plan.steps >= 1
    for rank in range(workers):
        mine = len(range(rank, rows, workers))
        taken = list(batches(mine, plan, OneOf(rank, workers), seed=0, epoch=0))
        assert len(taken) == plan.steps
        assert {len(part) for part in taken} == {plan.rows_per_step // workers}
        assert len(torch.unique(torch.cat(taken))) == sum(len(part) for part in taken)


def test_the_order_changes_with_epoch_and_seed_and_not_by_itself() -> None:
    plan = Plan(epochs=2, steps=4, rows_per_step=8)

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(batches(40, plan, Alone(), seed=seed, epoch=epoch))).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


def test_shards_divide_the_rows_and_only_rank_0_judges(tmp_path: Path) -> None:
    one = work(tmp_path, rows=1_001)
    whole, held_out, rows = load(one, Alone())
    parts = [load(one, OneOf(rank, 3)) for rank in range(3)]
    assert sum(len(mine) for mine, _, _ in parts) == rows == len(whole)
    assert [len(judged) for _, judged, _ in parts] == [len(held_out), 0, 0]
    assert torch.equal(parts[1][0].numeric, whole.numeric[1::3])


def test_the_rate_falls_to_nothing_or_stays() -> None:
    cosine, constant = TrainSettings(), TrainSettings(schedule="constant")
    assert [round(rate_at(cosine, done) / cosine.learning_rate, 6) for done in (0, 0.5, 1)] == [1, 0.5, 0]
    assert rate_at(constant, 0.9) == constant.learning_rate
