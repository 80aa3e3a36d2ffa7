"""The loop in this process: steps, early stopping, divergence; and a run that goes on where it stopped is the same run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model import mlp
from mlplat.model.shape import Shape
from mlplat.train import judge
from mlplat.train.gang import Alone
from mlplat.train.progress import Plan, Progress, Silent
from mlplat.train.science import Science
from mlplat.train.session import Session, learn
from mlplat.train.settings import Recovery
from mlplat.train.work import Learned, Work, Yielded
from tests.train.support import Listening, OneOf, work


class Tiny(nn.Module):  # type: ignore[misc]
    """A network of the user's own, which draws from all three sources of random numbers."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.slots[0], 4)
        self.body = nn.Sequential(nn.Linear(shape.numbers + 4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, shape.outputs)

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        both = torch.cat([numeric, self.embedding(codes[:, 0])], dim=1)
        noise = random.random() + np.random.random() if self.training else 0.0
        out: torch.Tensor = self.head(self.body(both)) + 0.01 * noise
        return out


def run(one: Work, *, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> Learned | Yielded:
    return learn(one, Alone(), progress or Silent(), SystemClock(), stop)


def whole(one: Work, **more: object) -> Learned:
    shutil.rmtree(one.folder, ignore_errors=True)
    learned = run(one, **more)  # type: ignore[arg-type]
    assert isinstance(learned, Learned)
    return learned


def nth(number: int) -> Callable[[], bool]:
    """Says yes when it is asked for the nth time."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) == number


def same(one: Learned, other: Learned) -> bool:
    """To the bit, but for the seconds."""
    assert one.weights.keys() == other.weights.keys()
    epochs = [[replace(m, seconds=0.0) for m in learned.history] for learned in (one, other)]
    return epochs[0] == epochs[1] and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )


@pytest.mark.slow
def test_it_learns_and_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    one = work(tmp_path)
    first, second = whole(one), whole(one)
    other = whole(replace(one, settings=replace(one.settings, seed=1)))
    assert max(m.held_out["auc"] for m in first.history) > 0.7
    assert same(first, second)
    assert any(not np.array_equal(first.weights[name], other.weights[name]) for name in first.weights)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vocabulary", "own"])
def test_a_run_that_is_stopped_again_and_again_is_the_undisturbed_run(tmp_path: Path, network: str) -> None:
    given = {} if network == "vocabulary" else {"science": Science(network=Tiny)}
    one = work(tmp_path, recovery=Recovery(steps=16), accumulate=2, **given)
    undisturbed = whole(one)
    shutil.rmtree(one.folder)
    stops, found = 0, run(one, stop=nth(2))
    while isinstance(found, Yielded):
        stops, before = stops + 1, found.step
        found = run(one, stop=nth(3))
        assert not isinstance(found, Yielded) or found.step > before
    assert stops > 10
    assert same(undisturbed, found)


@pytest.mark.slow
def test_a_stop_is_heard_where_an_epoch_is_one_step(tmp_path: Path) -> None:
    one = work(tmp_path, batch_size=100_000, epochs=30, patience=30)
    undisturbed = whole(one)
    shutil.rmtree(one.folder)
    stopped = run(one, stop=nth(5))
    assert isinstance(stopped, Yielded)
    assert 1 < stopped.step < 10
    assert same(undisturbed, run(one))


class WithSet(torch.optim.SGD):
    """Its state holds what no checkpoint can."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.param_groups[0]["seen"] = {1, 2}


def test_an_optimizer_whose_state_cannot_be_kept_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=r"cannot hold the state of the optimizer: .*set.*It may hold tensors"):
        run(work(tmp_path, recovery=Recovery(steps=2), science=Science(network=Tiny, optimizer=WithSet)))


def test_a_run_that_ended_is_not_repeated(tmp_path: Path) -> None:
    one = work(tmp_path, recovery=Recovery(steps=1_000))
    first, listening = run(one), Listening()
    again = run(one, progress=listening)
    assert isinstance(first, Learned)
    assert isinstance(again, Learned)
    assert same(first, again)
    assert listening.steps == []


@pytest.mark.slow
def test_a_broken_checkpoint_is_skipped_and_the_run_is_still_the_same(tmp_path: Path) -> None:
    one = work(tmp_path, recovery=Recovery(steps=16))
    undisturbed = whole(one)
    shutil.rmtree(one.folder)
    run(one, stop=nth(12))
    newest, older = sorted((one.folder / "checkpoints").glob("[0-9]*"), reverse=True)
    torn = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(torn[: len(torn) // 2])
    listening = Listening()
    found = run(one, progress=listening)
    assert f"the checkpoint of step {int(newest.name)} is broken" in str(listening.told[0])
    assert f"going on after step {int(older.name)} of" in str(listening.told[1])
    assert isinstance(found, Learned)
    assert same(undisturbed, found)


@pytest.mark.slow
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = work(tmp_path, recovery=Recovery(steps=16))
    undisturbed, listening = whole(one), Listening()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlplat.train.checkpoints._save", full)
    assert same(undisturbed, whole(one, progress=listening))
    said = listening.notes
    assert "could not be written ([Errno 28] No space left on device); training goes on" in said[0]
    assert not list((one.folder / "checkpoints").glob("[0-9]*"))


def test_the_callers_random_numbers_and_threads_are_left_alone(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [*torch.rand(2).tolist(), random.random(), float(np.random.random())]

    def seed() -> None:
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)

    seed()
    expected, threads = draw(), torch.get_num_threads()
    seed()
    run(work(tmp_path, made={"rows": 500}))
    assert draw() == expected
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.4, 0.45, 0.41, 0.3])
    judged = judge.Judge.judged

    def scripted(self: judge.Judge, *arguments: object, **more: object) -> object:
        monkeypatch.setattr(self, "_mean_loss", lambda _: next(losses))
        return judged(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(judge.Judge, "judged", scripted)
    learned = whole(work(tmp_path, epochs=5, patience=2))
    assert [m.held_out["log_loss"] for m in learned.history] == [0.5, 0.4, 0.45, 0.41]
    assert [m.best for m in learned.history] == [True, True, False, False]


def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"became (nan|inf) in epoch 1, step \d+.*learning_rate below 1e\+35"):
        run(work(tmp_path, learning_rate=1e35, epochs=2))


def test_progress_comes_in_order(tmp_path: Path) -> None:
    listening = Listening()
    run(work(tmp_path), progress=listening)
    plan = listening.told[0]
    assert isinstance(plan, Plan)
    steps = listening.steps
    assert steps == sorted(steps)
    assert steps[-1] == plan.total
    assert [told.epoch for told in listening.epochs] == [0, 1, 2]


def test_the_users_own_loss_metric_optimiser_and_loop_are_used(tmp_path: Path) -> None:
    calls: list[str] = []

    def loss(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append("loss")
        return ((torch.sigmoid(raw[:, 0]) - labels) ** 2).mean()

    def optimizer(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5)

    def loop(session: Session) -> None:
        for _ in session.epochs():
            for batch in session.batches():
                session.step(session.loss(session.forward(batch.numeric, batch.codes), batch.labels))
        calls.append("loop")

    base_rate = {"share": lambda labels, predictions: float(labels.mean())}
    science = Science(network=Tiny, loss=loss, metrics=base_rate, optimizer=optimizer, loop=loop)
    learned = whole(work(tmp_path, science=science))
    assert calls[-1] == "loop"
    assert learned.history[0].held_out.keys() == {"loss", "share"}
    assert learned.history[-1].held_out["loss"] < 0.25


def test_a_metric_that_raises_is_named(tmp_path: Path) -> None:
    def odd(labels: object, predictions: object) -> float:
        raise ZeroDivisionError("no rows")

    one = work(tmp_path, science=Science(network=Tiny, metrics={"odd": odd}))
    with pytest.raises(UserCodeError, match=r"metric 'odd' raised ZeroDivisionError: no rows, given \(\d+,\) labels"):
        run(one)


class Empty(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return numeric[:, :1]


@pytest.mark.parametrize(
    ("science", "error", "says"),
    [
        (Science(network=Empty), InvalidInput, "the network has no weights to learn"),
        (Science(network=Tiny, loop=lambda session: None), InvalidInput, "it has to go through session.epochs"),
        (
            Science(network=Tiny, loss=lambda raw, labels: raw[:, 0] - labels),
            UserCodeError,
            r"the loss has shape \(128,\)",
        ),
        (
            Science(network=Tiny, loss=lambda raw, labels: labels.mean()),
            UserCodeError,
            "must be one number that depends",
        ),
    ],
)
def test_code_that_cannot_be_trained_with_is_told_why(
    tmp_path: Path, science: Science, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        run(work(tmp_path, science=science))


def test_a_run_that_could_not_begin_holds_nothing_up(tmp_path: Path) -> None:
    def none(parameters: object) -> torch.optim.Optimizer:
        raise ValueError("no optimiser today")

    kept: list[BaseException] = []
    for _ in range(2):
        with pytest.raises(ValueError, match="today") as caught:
            run(work(tmp_path, science=Science(network=Tiny, optimizer=none)))
        kept.append(caught.value)  # as a notebook keeps the last one, with its frames
    assert len(kept) == 2


def test_a_network_that_is_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the network gave int, and not a torch\.nn\.Module"):
        run(work(tmp_path, science=Science(network=lambda shape: 3)))  # type: ignore[arg-type,return-value]


@pytest.mark.slow
def test_accumulated_parts_move_the_weights_as_one_batch_does(tmp_path: Path) -> None:
    plain = Science(network=mlp((16,)))
    results = [
        whole(work(tmp_path / str(parts), science=plain, accumulate=parts, epochs=1, batch_size=64)) for parts in (1, 4)
    ]
    apart = [np.abs(results[0].weights[name] - results[1].weights[name]).max() for name in results[0].weights]
    assert max(apart) < 1e-5


def test_workers_divide_every_step_and_the_rows_of_a_step_do_not_depend_on_how_many_they_are(tmp_path: Path) -> None:
    def steps(size: int) -> list[set[bytes]]:
        found: dict[int, list[bytes]] = {}

        def loop(session: Session) -> None:
            next(iter(session.epochs()))
            for step, batch in enumerate(session.batches()):
                found.setdefault(step // 2, []).extend(row.tobytes() for row in batch.numeric.numpy())

        for rank in range(size):
            one = work(
                tmp_path / f"{size}-{rank}",
                made={"rows": 1_001},
                accumulate=2,
                science=Science(network=Tiny, loop=loop),
            )
            with suppress(InvalidInput):  # no epoch was judged
                learn(one, OneOf(rank, size), Silent(), SystemClock(), lambda: False)
        assert all(len(rows) == len(set(rows)) == 128 for rows in found.values())
        return [set(rows) for rows in found.values()]

    assert steps(1) == steps(4)


def test_bfloat16_keeps_the_weights_in_float32(tmp_path: Path) -> None:
    learned = whole(work(tmp_path, precision="bfloat16", epochs=2))
    assert {value.dtype for value in learned.weights.values()} == {np.dtype(np.float32)}
    assert learned.history[-1].held_out["auc"] > 0.65
