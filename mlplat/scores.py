"""Batch prediction: a registered model over a table of any size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import polars as pl
import psutil

from mlplat.clock import iso
from mlplat.config import environment
from mlplat.features.bucket_files import scratch
from mlplat.features.buckets import limit_bytes
from mlplat.features.pieces import Piece, in_memory, pieces_of
from mlplat.features.progress import Shown
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.port import ModelVersion
from mlplat.model import artifact
from mlplat.model.model import Model
from mlplat.models import Models
from mlplat.serve.batch import PIECE_ROWS, Batch, Scorer, Scoring
from mlplat.serve.batch_files import Draft, Target, name_of
from mlplat.train import Progress, TrainedModel, progress_for

if TYPE_CHECKING:
    from mlplat._ray.session import Session

_AT_URLS = ("AWS_", "GOOGLE_", "AZURE_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """The answers to a batch, in `files` Parquet files under `to`, and the version that gave them."""

    to: str
    rows: int
    files: int
    model: str
    version: int
    digest: str


class Scores(Models):
    """A part of `Platform`, which has the stores and Ray."""

    @property
    @abstractmethod
    def session(self) -> Session: ...

    @abstractmethod
    def _admit(self, demand: Demand, progress: Progress) -> None: ...

    @overload
    def predict(
        self,
        model: TrainedModel | ModelVersion | str,
        data: Any,
        *,
        to: None = ...,
        time: str | None = ...,
        compute: str | Mapping[str, Any] | None = ...,
    ) -> pl.DataFrame: ...

    @overload
    def predict(
        self,
        model: TrainedModel | ModelVersion | str,
        data: Any,
        *,
        to: str | Path,
        time: str | None = ...,
        compute: str | Mapping[str, Any] | None = ...,
    ) -> Predicted: ...

    def predict(
        self,
        model: TrainedModel | ModelVersion | str,
        data: Any,
        *,
        to: str | Path | None = None,
        time: str | None = None,
        compute: str | Mapping[str, Any] | None = None,
    ) -> pl.DataFrame | Predicted:
        """Predict in batch: every row of a table, in order, with the model's outputs, `model_version` and `model_digest`. The
        same features as online, and the same numbers to 1e-6.

        `model` may be a name, for its gold version, or "name@3". `data` is a polars, pandas or Arrow table, a training set, an
        Arrow reader or dataset, a Ray Dataset, or the path or URL of Parquet or CSV; it need not fit in memory. It has the entity
        keys and the fields that a caller sends; one that he may leave out is null where it lacks. `time` is the column with
        the moment of a row, as `at` is of a request (default: now, the same for all rows; a training set's own).

        With `to`, a folder or a URL, the answers go there as Parquet, wholly or not at all: a job that was killed leaves
        nothing that counts, and the same call again replaces what is there. `compute` says where: "cpu:0" is this process,
        "cpu:4" four of the cluster; by default files that are more than one piece take every core, and all else stays here.

        Raises `InvalidInput` with column and row; `Refused` for a folder that has other things in it.
        """
        version, demand = self.version(model), None if compute is None else Demand.parse(compute)
        target = None if to is None else Target.of(to)
        if isinstance(data, TrainingSet):
            data, time = data.table(), time or data.time
        if isinstance(data, str | Path) and "://" not in str(data):
            data = str(Path(data).expanduser().absolute())  # other processes stand elsewhere
        loaded = self.load(version)
        with ExitStack() as stack:
            here = in_memory(data) and (demand is None or demand.in_process)
            folder = None if here else stack.enter_context(scratch(self.home / "tmp"))
            pieces = pieces_of(data, rows=PIECE_ROWS, scratch=folder)
            demand = demand or self._demand(pieces)
            batch = self._batch(version, loaded, time, workers=max(demand.count, 1))
            if target is None and demand.in_process:
                return self._frame(version, Scorer(batch, loaded), pieces)
            draft = Draft(at=str(folder)) if target is None else stack.enter_context(target.draft())
            rows = self._shown(version, pieces, self._scored(loaded, batch, pieces, draft, demand))
            if target is None:
                return pl.concat([pl.read_parquet(f"{draft.at}/{name_of(i)}") for i in range(len(pieces))])
            return _published(target, draft, version, rows=rows, files=len(pieces), now_us=batch.now_us)

    def _frame(self, version: ModelVersion, scorer: Scorer, pieces: Sequence[Piece]) -> pl.DataFrame:
        """All answers, in this process."""
        found: list[pl.DataFrame] = []

        def kept(frame: pl.DataFrame) -> int:
            found.append(frame)
            return frame.height

        self._shown(version, pieces, (kept(frame) for piece in pieces for frame in scorer.piece(piece)))
        return pl.concat(found)

    def _demand(self, pieces: Sequence[Piece]) -> Demand:
        """Of one piece there is nothing to share."""
        if len(pieces) == 1:
            return Demand.parse("cpu:0")
        cores = max(int(self.session.total().get("CPU", 1)), 1)
        return Demand.parse(f"cpu:1-{min(cores, len(pieces))}")

    def _batch(self, version: ModelVersion, model: Model, time: str | None, *, workers: int) -> Batch:
        return Batch(
            version=version.version,
            digest=version.digest,
            path=str(artifact.place(self.home.resolve(), version.name, version.digest)),
            pins=self.features.pin(model.signature.features),
            time=time,
            now_us=self._clock.now_us(),
            memory=limit_bytes(None, available=psutil.virtual_memory().available) // workers,
        )

    def _scored(
        self, model: Model, batch: Batch, pieces: Sequence[Piece], draft: Draft, demand: Demand
    ) -> Iterator[int]:
        """How many rows each piece has, once its answers are in the draft."""
        if demand.in_process:
            return map(Scoring(batch, pieces, draft, scorer=Scorer(batch, model)), range(len(pieces)))
        self._admit(demand, progress_for(self._clock))
        variables = {n: v for n, v in environment().variables.items() if n.startswith(_AT_URLS)}
        from mlplat.serve._ray.batch import score

        return score(Scoring(batch, pieces, draft, variables=variables), demand)

    def _shown(self, version: ModelVersion, pieces: Sequence[Piece], parts: Iterator[int]) -> int:
        """The sum of the parts, which people see go by."""
        progress, began_s = Shown(f"{version.name}@{version.version}", self._clock), self._clock.elapsed_s()
        progress.begin("predict", done=0, total=sum(piece.rows for piece in pieces))
        done = 0
        try:
            for rows in parts:
                done += rows
                spent_s = self._clock.elapsed_s() - began_s
                progress.advance(done, done / spent_s if spent_s else None)
        finally:
            progress.end()
        return done


def _published(target: Target, draft: Draft, version: ModelVersion, *, rows: int, files: int, now_us: int) -> Predicted:
    done = Predicted(
        to=target.where,
        rows=rows,
        files=files,
        model=version.name,
        version=version.version,
        digest=version.digest,
    )
    said = {"model": done.model, "version": done.version, "digest": done.digest, "rows": rows, "at": iso(now_us)}
    target.publish(draft, files, said)
    return done
