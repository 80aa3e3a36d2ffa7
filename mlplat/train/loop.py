"""The learning itself: one loop for this process and for each of several workers. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from mlplat.clock import Clock
from mlplat.errors import InvalidInput
from mlplat.model.build import build, read_weights
from mlplat.train import evaluate
from mlplat.train.gang import Gang
from mlplat.train.progress import EpochMetrics, Plan, Progress
from mlplat.train.settings import TrainSettings
from mlplat.train.shards import Tensors, Work, load

Array = np.ndarray[Any, Any]

LOSSES_KEPT = 20  # steps between two looks at the losses: each look waits for the device
EVALUATION_ROWS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The weights of the best epoch, and all epochs."""

    weights: Mapping[str, Array]
    history: tuple[EpochMetrics, ...]


@dataclass(slots=True, kw_only=True)
class Best:
    """The best epoch so far, and how long ago it was."""

    log_loss: float = math.inf
    weights: Mapping[str, Array] = field(default_factory=dict)
    behind: int = 0

    def offer(self, log_loss: float, module: nn.Module) -> bool:
        better = log_loss < self.log_loss
        if better:
            self.log_loss, self.weights, self.behind = log_loss, read_weights(module), 0
        else:
            self.behind += 1
        return better


def learn(work: Work, gang: Gang, progress: Progress, clock: Clock) -> Learned:
    """Train. Only rank 0 reports progress and has weights and history in what it returns."""
    settings = work.settings
    mine, held_out, rows = load(work, gang)
    plan = plan_for(settings, rows, gang.size)
    with _own_settings(gang):
        torch.manual_seed(settings.seed)
        module = build(work.architecture, work.encoding).to(gang.device)
        torch.manual_seed(settings.seed + 1 + gang.rank)  # dropout differs between workers, the first weights do not
        return _epochs(work, gang, progress, clock, plan, module, mine, held_out)


@contextmanager
def _own_settings(gang: Gang) -> Iterator[None]:
    """The caller's random numbers and thread count stay the caller's. One thread per worker: small networks are
    faster so, most of all beside other work, and the order of sums, so the weights, does not depend on the machine's
    cores."""
    devices = [gang.device] if gang.device.type == "cuda" else []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_num_threads(threads)


def plan_for(settings: TrainSettings, rows: int, workers: int) -> Plan:
    """Every worker does the same number of steps: a step without a partner would wait for ever."""
    share = rows // workers
    if share == 0:
        raise InvalidInput(f"{rows} rows to learn from are too few for {workers} workers")
    batch = min(max(1, settings.batch_size // workers), share)
    return Plan(epochs=settings.epochs, steps=share // batch, rows_per_step=batch * workers)


def _epochs(
    work: Work,
    gang: Gang,
    progress: Progress,
    clock: Clock,
    plan: Plan,
    module: nn.Module,
    mine: Tensors,
    held_out: Tensors,
) -> Learned:
    settings = work.settings
    parallel = gang.wrap(module)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    best, history = Best(), []
    if gang.rank == 0:
        progress.begin(plan)
    for epoch in range(settings.epochs):
        began_s = clock.elapsed_s()
        loss = _epoch(epoch, settings, gang, progress, plan, parallel, optimiser, mine)
        if gang.rank == 0:
            metrics = _judge(epoch, loss, module, held_out, gang.device, best, clock.elapsed_s() - began_s)
            history.append(metrics)
            progress.epoch(metrics)
        if gang.agree(best.behind >= settings.patience):
            break
    return Learned(weights=best.weights, history=tuple(history))


def _epoch(
    epoch: int,
    settings: TrainSettings,
    gang: Gang,
    progress: Progress,
    plan: Plan,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    mine: Tensors,
) -> float:
    """One pass over this worker's rows; its mean loss."""
    module.train()
    recent: list[torch.Tensor] = []
    total = 0.0
    for step, rows in enumerate(batches(len(mine), plan, gang, seed=settings.seed, epoch=epoch)):
        done = epoch * plan.steps + step
        for group in optimiser.param_groups:
            group["lr"] = rate_at(settings, done / plan.total)
        numeric, codes, labels = mine.take(rows, gang.device)
        loss = nn.functional.binary_cross_entropy_with_logits(module(numeric, codes)[:, 0], labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        recent.append(loss.detach())
        if len(recent) == LOSSES_KEPT or step + 1 == plan.steps:
            total += _sum_checked(recent, epoch, step + 1, settings)
            if gang.rank == 0:
                progress.step(done + 1, float(recent[-1]))
            recent.clear()
    return total / plan.steps


def batches(rows: int, plan: Plan, gang: Gang, *, seed: int, epoch: int) -> Iterator[torch.Tensor]:
    """Positions of each step's rows. The order depends on the seed, the epoch and the rank alone; the rest of a
    division waits for the next epoch, which shuffles anew."""
    order = torch.from_numpy(np.random.default_rng([seed, epoch, gang.rank]).permutation(rows))
    batch = plan.rows_per_step // gang.size
    for step in range(plan.steps):
        yield order[step * batch : (step + 1) * batch]


def rate_at(settings: TrainSettings, done: float) -> float:
    """The learning rate when this share of the longest possible run is done."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _sum_checked(losses: list[torch.Tensor], epoch: int, steps: int, settings: TrainSettings) -> float:
    values = torch.stack(losses).double().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        step = steps - len(losses) + int(bad[0]) + 1
        raise InvalidInput(
            f"the loss became {values[bad[0]]} in epoch {epoch + 1}, step {step}: the training diverged. "
            f"Try a learning_rate below {settings.learning_rate:g}."
        )
    return float(values.sum())


def _judge(
    epoch: int, loss: float, module: nn.Module, held_out: Tensors, device: torch.device, best: Best, seconds: float
) -> EpochMetrics:
    probabilities = predict(module, held_out, device)
    labels = held_out.labels.numpy().astype(np.float64)
    value = evaluate.log_loss(labels, probabilities)
    if not math.isfinite(value):
        raise InvalidInput(f"the model answers {value} on rows held out after epoch {epoch + 1}: the training diverged")
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        log_loss=value,
        auc=evaluate.auc(labels, probabilities),
        seconds=seconds,
        best=best.offer(value, module),
    )


def predict(module: nn.Module, rows: Tensors, device: torch.device) -> Array:
    """float64 probabilities, in evaluation mode."""
    module.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), EVALUATION_ROWS):
            numeric, codes, _ = rows.take(slice(start, start + EVALUATION_ROWS), device)
            parts.append(torch.sigmoid(module(numeric, codes)[:, 0].double()).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty(0)
