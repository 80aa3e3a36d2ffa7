"""Tuning what is registered, architectures and then settings, and a few kinds of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mlplat
from mlplat import space
from mlplat.errors import InvalidInput
from mlplat.features.training_set import TrainingSet
from mlplat.model import mlp, vocabulary
from mlplat.testing.learnable import stored
from mlplat.train import TrainSettings
from mlplat.train.search.zoo import zoo

SETTINGS = TrainSettings(batch_size=128, epochs=2, learning_rate=1e-4, holdout_s=48 * 86_400)
HERE = {"compute": "cpu:0"}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[mlplat.Platform]:
    with mlplat.connect(tmp_path / "home") as platform:
        yield platform


@pytest.fixture
def data(platform: mlplat.Platform) -> TrainingSet:
    return stored(platform.home, rows=600, numbers=3)


@pytest.mark.slow
def test_a_deployed_models_learning_rate_is_tuned_from_its_record(platform: mlplat.Platform, data: TrainingSet) -> None:
    model = platform.train(mlp((8,)), data, settings=SETTINGS)
    platform.promote(model, force=("me", "to have a gold"))
    found = platform.tune("late", learning_rate=space.number(1e-4, 1e-1, log=True), trials=3)
    now = found.trials[0]
    assert now.params == {"learning_rate": 1e-4}
    assert now.values[0] == model.metrics["log_loss"]  # what it is now is the first trial, to the bit
    assert found.best.values[0] < now.values[0]
    tags = platform.metadata.run(found.version.run_id)["tags"]
    assert (tags["tunes"], tags["search"]) == ("late@1", "late-1-learning_rate")
    assert found.version.name == "late"
    gold = platform.metadata.alias("late", "gold")
    assert gold is not None
    assert gold.version == 1  # nothing moved


@pytest.mark.slow
def test_an_estimators_parameters_are_tuned_and_wrong_ones_are_named(
    platform: mlplat.Platform, data: TrainingSet
) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype", random_state=0)
    model = platform.train(trees, data, settings=SETTINGS)
    found = platform.tune(model, max_iter=space.integer(5, 40), trials=2)
    assert found.trials[0].params == {"network.max_iter": 5}
    assert found.trials[0].values[0] == model.metrics["log_loss"]
    with pytest.raises(
        InvalidInput, match=r"tune: lr: there are .*learning_rate.*, and of HistGradientBoosting.*max_iter"
    ):
        platform.tune(model, lr=space.number(0, 1))
    with pytest.raises(InvalidInput, match="name what to search"):
        platform.tune(model)


@pytest.mark.slow
def test_the_best_architectures_go_on_pinned_to_a_search_of_their_settings(
    platform: mlplat.Platform, data: TrainingSet
) -> None:
    architectures = vocabulary.network(
        vocabulary.dense(space.choice(4, 8, name="width")),
        space.repeat(
            vocabulary.residual(vocabulary.dense(space.choice(4, 8)), vocabulary.activation()), space.integer(0, 2)
        ),
    )
    rates = {"learning_rate": space.number(1e-3, 1e-1, log=True)}
    found = platform.discover(architectures, rates, data, trials=(5, 4), top=2, epochs=1, settings=SETTINGS, **HERE)
    first = platform.trials("late-architectures")
    best = sorted(first, key=lambda trial: trial.values)[:2]
    assert [trial.params["network"] for trial in found.trials[:2]] == [f"trial {one.number}" for one in best]
    assert {trial.params["network"] for trial in found.trials} == {f"trial {one.number}" for one in best}
    tags = platform.metadata.run(found.version.run_id)["tags"]
    assert (tags["architectures"], tags["search"]) == ("late-architectures", "late-tuned")
    assert len(platform.metadata.versions("late")) == 3  # of the second search alone
    assert platform.reproduce(found.version).same


@pytest.mark.slow
def test_automl_tries_each_kind_once_before_any_again(platform: mlplat.Platform, data: TrainingSet) -> None:
    kinds = list(zoo("binary", 0))
    assert {"network", "linear", "forest", "boosted trees"} <= set(kinds)
    found = platform.automl(data, trials=len(kinds), settings=SETTINGS, **HERE)
    assert [trial.params["kind"] for trial in found.trials] == kinds
    assert {trial.state for trial in found.trials} == {"done"}, [trial.error for trial in found.trials]


@pytest.mark.slow
def test_automl_takes_a_table_too(platform: mlplat.Platform, data: TrainingSet) -> None:
    table = data.table().drop_columns(["place"])
    settings = TrainSettings(task="binary", batch_size=128, epochs=1, holdout_s=48 * 86_400)
    found = platform.automl(table, "label", time="time", name="table", trials=2, settings=settings, **HERE)
    assert len(found.models) == 2
    with pytest.raises(InvalidInput, match="of a table give label=, time= and name="):
        platform.automl(table, "label")
