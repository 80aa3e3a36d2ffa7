"""What is seen of an experiment in the log, and in the outcomes that have become known: the facts of the gold promoter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from mlplat.errors import Conflict, InvalidInput, unknown
from mlplat.features.training_set import TrainingSet
from mlplat.model.task import Task
from mlplat.serve.gold_promoter import LiveFacts
from mlplat.serve.log import asked_column
from mlplat.serve.routing import GOLD
from mlplat.serve.state import Entry, Member
from mlplat.stats.sequential import difference, split_p, unit_means

Array = np.ndarray[Any, Any]
Losses = Callable[[pl.DataFrame, Array], Array]
"""Of rows of the log, with their output columns, and what really happened: the loss of each."""

SCALE = 0.02
"""Differences of a fiftieth of a unit of loss are looked for; smaller and larger ones are found too, later and sooner."""


def experiment_of(entry: Entry, arm: str) -> Member:
    """`NotFound` if the endpoint has no such experiment."""
    experiments = {m.name: m for m in entry.others if m.role == "experiment"}
    if arm not in experiments:
        raise unknown(f"experiment of {entry.name!r}", arm, experiments)
    return experiments[arm]


def unchanged(entry: Entry, member: Member) -> Member:
    """`Conflict` if the experiment is not any more what it was, `NotFound` if it is over."""
    if experiment_of(entry, member.name) != member:
        raise Conflict(
            f"experiment {member.name!r} of {entry.name!r} was changed meanwhile: nothing was done, ask again"
        )
    return member


def one_task(tasks: Sequence[Task]) -> Task:
    """That of versions which are compared: of classes, all that one of them knows. `InvalidInput` if they have several."""
    kinds = sorted({task.kind for task in tasks})
    if len(kinds) > 1:
        raise InvalidInput(
            f"versions for {' and for '.join(kinds)} cannot be compared by what happens: end one of them"
        )
    return Task(kind=tasks[0].kind, classes=tuple(dict.fromkeys(c for task in tasks for c in task.classes)))


def facts_of(
    entry: Entry, arm: str, log: pl.DataFrame, outcomes: pl.DataFrame, losses: Losses, *, alpha: float
) -> LiveFacts:
    """Of the rows since the experiment has its present version and share; gold's are those of the same time that were not an
    experiment's."""
    member, table = experiment_of(entry, arm), entry.table()
    share_of_gold = table.arms[0].share
    answers = answered(log)
    own = _of(answers, arm, member.share, member.version)
    since = own["received_at"].min() if own.height else None
    gold = _of(answers, GOLD, share_of_gold, entry.version)
    gold = gold.filter(pl.col("received_at") >= since) if since is not None else gold.head(0)
    failed = own.filter(pl.col("instead").is_not_null()).height if own.height else 0
    losses_own = _unit_losses(own, outcomes, losses)
    losses_gold = _unit_losses(gold, outcomes, losses)
    units = (own["unit"].n_unique() if own.height else 0, gold["unit"].n_unique() if gold.height else 0)
    both = member.share + share_of_gold
    return LiveFacts(
        arm=arm,
        version=member.version,
        gold=entry.version,
        share=member.share,
        rows=own.height,
        failed=failed,
        outcomes=len(losses_own),
        gold_outcomes=len(losses_gold),
        loss=float(losses_own.mean()) if len(losses_own) else None,
        gold_loss=float(losses_gold.mean()) if len(losses_gold) else None,
        versus=difference(losses_own, losses_gold, alpha=alpha, scale=SCALE),
        split=split_p(units, member.share / both if both else 0.0),
    )


def by_prediction(outcomes: pl.DataFrame, log: pl.DataFrame, entities: Sequence[str]) -> pl.DataFrame:
    """Outcomes by `prediction_id`, from outcomes by that; by `request_id` of requests of one row; or by the entity keys and
    `at`, the moment that was asked about. A row that nobody was asked about is left out.

    `InvalidInput` if they have none of these."""
    if "prediction_id" in outcomes.columns or "value" not in outcomes.columns:
        return outcomes
    answers = answered(log)
    for keys in (["request_id"], [*entities, "at"]):
        if (entities and set(keys) <= set(outcomes.columns)) or (
            keys == ["request_id"] and "request_id" in outcomes.columns
        ):
            if not answers.height:
                return pl.DataFrame(schema={"prediction_id": pl.String, "value": pl.Float64})
            asked = answers.select("prediction_id", *keys).unique(keys, keep="last" if "at" in keys else "none")
            typed = outcomes.with_columns(pl.col(key).cast(asked.schema[key]) for key in keys)
            return typed.join(asked, on=keys, how="inner").select("prediction_id", "value")
    wanted = " or ".join(["prediction_id", "request_id", *([" and ".join([*entities, "at"])] if entities else [])])
    raise InvalidInput(f"outcomes need {wanted}, and value: there are {', '.join(outcomes.columns)}")


def answered(log: pl.DataFrame) -> pl.DataFrame:
    """Without what only a shadow would have said."""
    return log.filter(~pl.col("shadow").fill_null(value=False)) if "shadow" in log.columns else log


def labelled(log: pl.DataFrame, outcomes: pl.DataFrame, data: TrainingSet) -> pl.DataFrame:
    """The rows that were answered and whose outcome is known, in order of time, with the columns of `data` but its features:
    entity keys, time, label and request fields, of the same names and types. What a row was not asked is null."""
    schema = pl.DataFrame(data.table()[:0]).schema
    asked = {field.name: asked_column(field.name) for field in (*data.entities, *data.request)}
    found = {**asked, data.time: "at", data.label: "value"}
    rows = answered(log)
    if not rows.height:
        return pl.DataFrame(schema={name: schema[name] for name in schema if name in found})
    rows = rows.join(outcomes.select("prediction_id", "value"), on="prediction_id").sort("at", maintain_order=True)
    columns = [
        (pl.col(found[name]) if found[name] in rows.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
        if name in found
    ]
    return rows.select(columns)


def _of(answers: pl.DataFrame, arm: str, share: float, version: int) -> pl.DataFrame:
    """What the version answered as that arm with that share, and what gold had to answer in its place."""
    if not answers.height:
        return answers
    own = (pl.col("version") == version) | pl.col("instead").is_not_null()
    return answers.filter((pl.col("arm") == arm) & ((pl.col("propensity") - share).abs() < 1e-9) & own)


def _unit_losses(rows: pl.DataFrame, outcomes: pl.DataFrame, losses: Losses) -> Array:
    """Of each unit with an outcome, the mean loss of the rows that its arm itself answered."""
    if not rows.height:
        return np.empty(0)
    known = rows.filter(pl.col("instead").is_null()).join(outcomes.select("prediction_id", "value"), on="prediction_id")
    if not known.height:
        return np.empty(0)
    return unit_means(known["unit"].to_numpy(), losses(known, known["value"].to_numpy()))
