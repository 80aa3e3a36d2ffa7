"""A run as the loop sees it, on one worker: rows, module, optimiser, steps; and behind them what the loop need not know:
looks at the clock, checkpoints, stops, judging, early stopping. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mlplat.clock import Clock
from mlplat.errors import InvalidInput, UserCodeError
from mlplat.model.architecture import Architecture
from mlplat.model.build import build, made
from mlplat.model.shape import Shape
from mlplat.train import rng
from mlplat.train.checkpoints import Checkpoint, Checkpoints
from mlplat.train.encoded import Batch, Rows, open_rows
from mlplat.train.faults import lacks_memory, out_of_memory
from mlplat.train.gang import Gang
from mlplat.train.judge import Judge
from mlplat.train.pace import Pace
from mlplat.train.plan import plan_for, rate_at
from mlplat.train.progress import EpochMetrics, Progress
from mlplat.train.saver import Saver
from mlplat.train.work import Learned, Work, Yielded

GO, SAVE, STOP = 0.0, 1.0, 2.0


class Stopped(BaseException):
    """Ends a loop that was asked to stop, after a checkpoint. No error: user code that catches those lets it through."""


class Session:
    """What a loop works with.

    `module` is the network, `forward` the same with gradients that are the mean over all workers, `rows` are those to learn
    from. Loops on all workers do
    the same steps. A loop that goes on after a crash or a stop begins in the epoch and at the step where its newest
    checkpoint was made, with all states of then.
    """

    def __init__(
        self,
        work: Work,
        gang: Gang,
        progress: Progress,
        clock: Clock,
        stop: Callable[[], bool],
        rows: Rows,
        judge: Judge,
        checkpoints: Checkpoints,
    ) -> None:
        self._work, self._gang, self._progress, self._clock, self._stop = work, gang, progress, clock, stop
        self.rows, self._judge = rows, judge
        self.settings, self.rank, self.size, self.device = work.settings, gang.rank, gang.size, gang.device
        self.plan = plan_for(self.settings, len(rows), gang.size)
        self._last = work.epochs or self.settings.epochs
        self.epoch = self._step = 0
        self.history: list[EpochMetrics] = []
        self._untold: list[tuple[int, EpochMetrics]] = []
        self._total, self._part = 0.0, 0
        self._recent: list[torch.Tensor] = []
        self._over = False
        self.module = self._built()
        half = self.settings.precision == "bfloat16"
        self.forward = gang.wrap(self.module, how=self.settings.parallel, half=half)
        self.loss = judge.loss
        self.optimizer = self._optimizer()
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._pace = Pace(recovery=self.settings.recovery)
        self._resume(checkpoints)
        self._saver = Saver(checkpoints, clock, committed=self.done)
        self._next_look = self._step + 1
        self._looked_s = self._saved_s = self._epoch_saved_s = self._epoch_began_s = clock.elapsed_s()
        self._looked_at = self.done

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs that are to come, from 0; after each the rows held out are judged."""
        if self.rank == 0:
            self._progress.begin(replace(self.plan, epochs=self._last, done=self.done))
        while not self._over and self.epoch < self._last:
            self.module.train()
            self._epoch_began_s = self._clock.elapsed_s()
            yield self.epoch
            self._end_epoch()

    def batches(self) -> Iterator[Batch]:
        """This worker's parts of the steps that are left of this epoch: `accumulate` of them make a step. All workers
        draw from one order of all rows, which depends on seed and epoch; what is left after the last whole step waits
        for the next epoch."""
        order = np.random.default_rng([self.settings.seed, self.epoch]).permutation(len(self.rows))
        parts = self.settings.accumulate
        mine = self.plan.rows_per_step // self.size // parts
        while self._step < self.plan.steps:
            if self._step >= self._next_look:
                self._look()
            for self._part in range(parts):
                self.forward.synchronise(self._part == parts - 1)
                at = self._step * self.plan.rows_per_step + (self._part * self.size + self.rank) * mine
                yield self.rows.take(torch.from_numpy(order[at : at + mine]), self.device)
            self._step += 1
        self._look_at_losses()

    def step(self, loss: torch.Tensor) -> None:
        """The backward pass of this part's mean loss, and after the last part of a step the optimiser's."""
        if loss.ndim or not loss.requires_grad:
            raise UserCodeError(
                f"the loss has shape {tuple(loss.shape)}: it must be one number that depends on the weights"
            )
        parts = self.settings.accumulate
        (loss if parts == 1 else loss / parts).backward()
        self._recent.append(loss.detach())
        if self._part == parts - 1:
            share = rate_at(self.settings, self.done / self.plan.total)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * share
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def checkpoint(self) -> None:
        """Make one now, whether one is due or not. All workers call it."""
        self._save()

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written. Of rank 0."""
        return not self._saver.idle

    def finish(self) -> None:
        """This epoch is the last one. All workers call it."""
        self._over = True

    def learned(self) -> Learned:
        if self.rank == 0 and not self.history:
            raise InvalidInput("the loop ended before an epoch was judged: it has to go through session.epochs()")
        weights = {name: value.numpy().copy() for name, value in self._judge.best.items()}
        return Learned(weights=weights, history=tuple(self.history))

    def close(self) -> None:
        """What is being written gets written."""
        self._saver.close()
        self._tell()

    @property
    def done(self) -> int:
        """Steps since the beginning of the run."""
        return self.epoch * self.plan.steps + self._step

    def _built(self) -> nn.Module:
        source = self._work.source
        network: Any = self._work.science.network
        rng.seed(self.settings.seed)
        if isinstance(network, Architecture):
            module = build(network, source.encoding, outputs=source.task.outputs)
        else:
            module = made(network, Shape.of(source.encoding, source.task.outputs))
        rng.seed(self.settings.seed + 1 + self.rank)  # dropout differs between workers, the first weights do not
        return module.to(self.device)

    def _optimizer(self) -> torch.optim.Optimizer:
        if not any(True for _ in self.module.parameters()):
            raise InvalidInput("the network has no weights to learn")
        make = self._work.science.optimizer
        if make is not None:
            return make(self.module.parameters())
        rates = {"lr": self.settings.learning_rate, "weight_decay": self.settings.weight_decay}
        return torch.optim.AdamW(self.module.parameters(), fused=self.settings.parallel == "ddp", **rates)

    def _look(self) -> None:
        """Losses, a stop, a checkpoint; rank 0 says what all do."""
        self._look_at_losses()
        now_s = self._clock.elapsed_s()
        step_s = (now_s - self._looked_s) / max(1, self.done - self._looked_at)
        self._looked_s, self._looked_at = now_s, self.done
        ahead = min(self._pace.look_after(step_s), self.plan.steps - self._step)
        action, ahead_of_all = self._gang.share(self._decided(now_s, ahead) if self.rank == 0 else [0.0, 0.0])
        if action != GO:
            self._save()
            if action == STOP or self._pace.must_wait(unsaved=self.done - self._saver.committed, ahead=ahead):
                self._saver.wait()
        if action == STOP:
            raise Stopped
        self._next_look = self._step + int(ahead_of_all)

    def _decided(self, now_s: float, ahead: int) -> list[float]:
        """Of rank 0: what all do now, and how many steps come before the next look."""
        self._tell()
        saver = self._saver
        if self._stop():
            return [STOP, ahead]
        if self._pace.must_wait(unsaved=self.done - saver.committed, ahead=ahead):
            saver.wait()
            if self._pace.must_wait(unsaved=self.done - saver.committed, ahead=ahead):
                return [SAVE, ahead]
        since = {"steps": self.done - saver.begun, "seconds": now_s - self._saved_s}
        return [SAVE if self._pace.due(**since, cost_s=saver.cost_s, ahead=ahead) else GO, ahead]  # type: ignore[arg-type]

    def _look_at_losses(self) -> None:
        """One look for many steps: each waits for the device."""
        if not self._recent:
            return
        values = torch.stack(self._recent).double().cpu().tolist()
        parts = self.settings.accumulate
        for at, value in enumerate(values):
            if not math.isfinite(value):
                step = self._step - (len(values) - at - 1) // parts
                raise InvalidInput(
                    f"the loss became {value} in epoch {self.epoch + 1}, step {step}: the training diverged. "
                    f"Try a learning_rate below {self.settings.learning_rate:g}."
                )
            self._total += value / parts
        self._recent.clear()
        if self.rank == 0:
            self._progress.step(self.done, values[-1])

    def _end_epoch(self) -> None:
        raw = self._judge.answers(self.forward, self._gang)
        now_s = self._clock.elapsed_s()
        better, due = False, False
        if self.rank == 0:
            seconds = now_s - self._epoch_began_s
            loss = self._total / max(1, self._step)
            metrics, better = self._judge.judged(raw, epoch=self.epoch, train_loss=loss, seconds=seconds)
            self.history.append(metrics)
            due = self._pace.due_at_end(seconds=now_s - self._epoch_saved_s, cost_s=self._saver.cost_s)
            self._over |= self._judge.behind >= self.settings.patience
        shared = self._gang.share([float(better), float(due), float(self._over)])
        better, due, self._over = (bool(value) for value in shared)
        if better:
            self._judge.keep(self.forward.weights(), to_keep=self.rank == 0)
        self.epoch, self._step, self._total = self.epoch + 1, 0, 0.0
        self._next_look = 0
        if due:
            self._save()
            self._epoch_saved_s = now_s
        if self.rank == 0:
            self._untold.append((self.done if due else 0, self.history[-1]))
            self._tell()

    def _tell(self) -> None:
        """Epochs whose checkpoint is durable, so that none is told and then done again; and what could not be written."""
        for text in self._saver.failures():
            self._progress.note(text)
        while self._untold and (self._untold[0][0] <= self._saver.committed or self._saver.idle):
            self._progress.epoch(self._untold.pop(0)[1])

    def _save(self) -> None:
        """All workers come here; rank 0 writes."""
        weights, optimizer = self.forward.states(self.optimizer)
        states = self._gang.gather(rng.capture(self.device))
        if self.rank == 0:
            state = {
                "weights": weights,
                "optimizer": optimizer,
                "rng": states,
                "epoch": self.epoch,
                "rows": self._step * self.plan.rows_per_step,
                "total": self._total,
                "over": self._over,
                "history": [asdict(metrics) for metrics in self.history],
                "judge": self._judge.state(),
            }
            self._saver.save(self.done, state, self._judge.best)
            self._saved_s = self._clock.elapsed_s()

    def _resume(self, checkpoints: Checkpoints) -> None:
        """From the newest checkpoint that is whole, if there is one."""
        step, broken = checkpoints.recover() if self.rank == 0 else (None, [])
        for text in broken:
            self._progress.note(text)
        found = int(self._gang.share([-1.0 if step is None else float(step)])[0])
        if found >= 0:
            self._restore(checkpoints.read(found))

    def _restore(self, saved: Checkpoint) -> None:
        state = saved.state
        self.forward.load(self.optimizer, state["weights"], state["optimizer"])
        self.epoch, self._step = state["epoch"], state["rows"] // self.plan.rows_per_step
        self._total, self._over = state["total"], state["over"]
        self.history = [EpochMetrics(**metrics) for metrics in state["history"]]
        self._untold = [(0, metrics) for metrics in self.history]  # again: who told them may have been killed over it
        self._judge.restore(state["judge"], saved.best)
        if len(state["rng"]) == self.size:  # else workers were added or lost: each has its own beginning
            rng.restore(state["rng"][self.rank], self.device)
        if self.rank == 0:
            self._progress.note(f"going on after step {self.done} of {self._last * self.plan.steps}")


def learn(work: Work, gang: Gang, progress: Progress, clock: Clock, stop: Callable[[], bool]) -> Learned | Yielded:
    """The run from its newest checkpoint, or from its beginning, to its end, or until `stop()` of rank 0 says so. Only rank 0
    reports, and has something in what it returns."""
    try:
        return _learn(work, gang, progress, clock, stop)
    except Exception as error:
        if lacks_memory(error):
            raise UserCodeError(out_of_memory(error, work.settings, rank=gang.rank, size=gang.size)) from error
        raise


def _learn(work: Work, gang: Gang, progress: Progress, clock: Clock, stop: Callable[[], bool]) -> Learned | Yielded:
    rows, held_out = open_rows(work.source, work.cache, gang, now_us=clock.now_us(), say=progress.note)
    checkpoints = Checkpoints(work.folder / "checkpoints")
    with (
        rng.left_alone(gang.device, threads=work.threads),
        checkpoints.claimed() if gang.rank == 0 else nullcontext(),
    ):
        judge = Judge(work.science, work.source.task, held_out)
        session = Session(work, gang, progress, clock, stop, rows, judge, checkpoints)
        try:
            (work.science.loop or loop)(session)
        except Stopped:
            session.close()
            return Yielded(step=session.done)
        except BaseException:
            with suppress(Exception):  # what went wrong first is what is told
                session.close()
            raise
        session.close()
        return session.learned()


def loop(session: Session) -> None:
    """The platform's own."""
    for _ in session.epochs():
        for batch in session.batches():
            session.step(session.loss(session.forward(batch.numeric, batch.codes), batch.labels))
