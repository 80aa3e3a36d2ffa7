"""What was served, and what came of it: the log, outcomes as they become known, and what both give to train on."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from mlplat.features.description import Description
from mlplat.model import artifact
from mlplat.model.signature import Signature
from mlplat.model.task import Task
from mlplat.scores import Scores
from mlplat.serve import live, parity, state
from mlplat.serve import outcomes as kept
from mlplat.serve.batch import outputs
from mlplat.serve.sources import land, landed, of_arm, predictions_of
from mlplat.train import judged
from mlplat.train.lineage import trained_on

if TYPE_CHECKING:
    from mlplat._ray.session import Session
    from mlplat.serve.parity import Parity


class Feedback(Scores):
    """A part of `Platform`, which has the stores and Ray."""

    _session: Session | None

    def predictions(self, name: str) -> pa.Table:
        """The prediction log of an endpoint up to now, in order of arrival. It is the source `predictions.NAME` of the feature
        store, which this brings up to now."""
        self._flush_log()
        found = landed(self.features, predictions_of(name), self.home / "log" / name)
        return found.to_arrow(compat_level=pl.CompatLevel.oldest())

    def describe_predictions(
        self, name: str, *, arm: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Description:
        """What was asked under a name, and what was answered: counts, nulls, quantiles, distinct and frequent values, of the days
        in [since, until). They are kept with the log as sketches; `features.describe` says more of them. With `arm`, what that
        arm was asked, or a shadow was shown: its rows are read. `NotFound` if nothing was logged."""
        source, folder = predictions_of(name), self.home / "log" / name
        self._flush_log()
        if arm is None:
            land(self.features, source, folder)
            return self.features.describe(source, since=since, until=until)
        return of_arm(landed(self.features, source, folder), source, arm, since=since, until=until)

    def parity(self, name: str) -> Parity:
        """Ask every logged prediction of an endpoint again in batch, as of its moment and with the version that answered, and
        compare the features by their bytes, and the outputs. What was pushed only after a request differs, as it should, and
        so does what came too late for one. What had expired may be null, or what it was where the endpoint keeps that.
        """
        table = self.predictions(name)
        log = pl.DataFrame(table) if table.num_columns else pl.DataFrame({"version": []})
        parts = []
        for (version,), rows in log.group_by("version", maintain_order=True):
            model = self.metadata.version(name, int(str(version)))
            loaded = self.load(model)
            joined = self._as_seen(rows, loaded.signature)
            batch = joined.with_columns(outputs(loaded, joined))
            parts.append(parity.compare(rows, batch, loaded.signature))
        return parity.merged(parts)

    def _as_seen(self, log: pl.DataFrame, signature: Signature) -> pl.DataFrame:
        """What was asked with the features of batch, kept ones where the log has them."""
        join = partial(self.features.join, parity.asked(log, signature), signature.features, time=parity.ASKED_AT)
        return parity.as_seen(log, join(), signature, kept=partial(join, keep_expired=True))

    def outcome(self, name: str, outcomes: Any) -> int:
        """Tell what really happened: a frame with `value` (0 or 1, a class, or a number), and by whom it is known:
        `prediction_id`; `request_id`, of requests of one row; or the entity keys and `at`. How many predictions it is of: of
        those that nobody asked for it says nothing. An outcome may come late, and again: the last one counts.

        They are events of the source `outcomes.NAME` of the feature store."""
        task, frame = self._task(name), pl.DataFrame(outcomes)
        if "prediction_id" not in frame.columns:
            entities = [field.name for field in self.load(name).signature.entities]
            frame = live.by_prediction(frame, pl.DataFrame(self.predictions(name)), entities)
        found = kept.checked(frame, task)
        kept.put(self.features, self.home, name, found, now_us=self._clock.now_us())
        return found.height

    def labels(self, name: str) -> pl.DataFrame:
        """What was served and is known by now, as labels of the next training set: one row per prediction with an outcome, in
        order of time, with the columns that the training set of the gold model has, but its features."""
        data = trained_on(self.gold(name), metadata=self.metadata, home=self.home)
        outcomes = kept.read(self.features, self.home, name)
        return live.labelled(pl.DataFrame(self.predictions(name)), outcomes, data)

    def _flush_log(self) -> None:
        if self._session is not None:
            from mlplat.serve._ray import flush_log

            flush_log()

    def _task(self, name: str) -> Task:
        """What gold and the experiments of a name are for."""
        entry = state.read(self.home).get(name)
        numbers = [] if entry is None else [m.version for m in entry.members() if m.role != "shadow"]
        versions = [self.metadata.version(name, number) for number in numbers] or [self.gold(name)]
        return live.one_task([_task_of(artifact.place(self.home, name, v.digest), v.digest) for v in versions])


def losses_of(task: Task) -> live.Losses:
    """Of rows of the log. A class that a version does not know has the probability 0 there."""
    if task.kind != "multiclass":
        column = f"output.{task.fields()[0].name}"
        return lambda rows, values: judged.losses(task, values, rows[column].to_numpy())
    columns = [f"output.probability.{c}" for c in task.classes]
    places = {c: place for place, c in enumerate(task.classes)}

    def losses(rows: pl.DataFrame, values: live.Array) -> live.Array:
        found = [pl.col(c).fill_null(0.0) if c in rows.columns else pl.lit(0.0).alias(c) for c in columns]
        probabilities = np.column_stack([rows.with_columns(found).select(columns).to_numpy(), np.zeros(rows.height)])
        labels = np.array([places.get(value, len(places)) for value in values])
        return judged.losses(task, labels, probabilities)

    return losses


@lru_cache
def _task_of(path: Path, digest: str) -> Task:
    return artifact.load(path, digest=digest, trusted=True).model.task
