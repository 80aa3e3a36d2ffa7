"""Estimators of other libraries in a whole run: fitted, kept as data, judged, made again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import xgboost
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, Refused, UserCodeError
from mlplat.features.training_set import TrainingSet
from mlplat.jobs.demand import Demand
from mlplat.metadata.memory import InMemoryMetadata
from mlplat.model import Estimator, mlp
from mlplat.model.artifact import load
from mlplat.testing.learnable import learnable, write
from mlplat.train.progress import Progress, Silent
from mlplat.train.reproduce import reproduce
from mlplat.train.run import PARENT_TAG, Interrupted
from mlplat.train.science import Science
from mlplat.train.settings import TrainSettings
from mlplat.train.trainer import FINAL_OF, TrainedModel, train
from tests.train.estimators import Breaks, Elsewhere, Forgetful, Rates

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(holdout_s=48 * 86_400, epochs=3, batch_size=128, learning_rate=1e-2)


def encoded(last: Any) -> Any:
    """A usual pipeline: numbers imputed and scaled, categories as columns."""
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include="category")),
    )
    return make_pipeline(columns, last)


ESTIMATORS = {
    "logistic": lambda: encoded(LogisticRegression()),
    "forest": lambda: encoded(RandomForestClassifier(30, random_state=0)),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=40, categorical_features="from_dtype"),
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=40, max_depth=3, enable_categorical=True, n_jobs=1),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=40, num_leaves=7, verbose=-1, n_jobs=1),
    "own": Rates,
}


class Fixture:
    """One home, and everything that a run needs beside its data and science."""

    def __init__(self, home: Path) -> None:
        self.home, self.metadata = home, InMemoryMetadata()

    def train(
        self, network: Any, data: TrainingSet, *, settings: TrainSettings = SETTINGS, **given: Any
    ) -> TrainedModel:
        science = {name: given.pop(name) for name in ("loss", "metrics", "loop") if name in given}
        found = train(
            data,
            Science(network=network, **science),
            settings,
            demand=Demand.parse(given.pop("compute", "cpu:0")),
            metadata=self.metadata,
            home=self.home,
            clock=SystemClock(),
            progress=given.pop("progress", Silent()),
            code=self.home,
            **given,
        )
        assert isinstance(found, TrainedModel)
        return found


@pytest.fixture
def at(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """In a home's place for it, as a reproduction looks there."""
    return learnable(tmp_path_factory.mktemp("data"), rows=3_000)


def stored(at: Fixture, data: TrainingSet) -> TrainingSet:
    """The same in the home, where a reproduction finds it."""
    import orjson

    folder = at.home / "training_sets" / data.name
    folder.mkdir(parents=True)
    (folder / data.path.name).write_bytes(data.path.read_bytes())
    (folder / f"{data.snapshot}.json").write_bytes(orjson.dumps(data.to_json()))
    return TrainingSet.load(at.home, data.name, data.snapshot)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_is_fitted_kept_and_made_again(name: str, at: Fixture, data: TrainingSet) -> None:
    data = stored(at, data)
    trained = at.train(ESTIMATORS[name](), data)
    assert trained.metrics["auc"] > 0.62
    assert trained.metrics["log_loss"] < 0.66

    found = load(Path(trained.version.path), digest=trained.version.digest, trusted=name == "own")
    rows = data.table()
    assert np.array_equal(found.model.predict(rows)["probability"], trained.model.predict(rows)["probability"])
    assert found.golden.difference(found.model) == 0.0
    one = {field.name: rows.column(field.name)[7:8].to_pylist() for field in found.model.signature.inputs()}
    assert found.model.predict(one)["probability"][0] == pytest.approx(
        found.model.predict(rows)["probability"][7], abs=1e-6
    )
    nulls = {name: [None] for name in one}
    assert 0 <= found.model.predict(nulls)["probability"][0] <= 1

    again = reproduce(
        trained.version,
        science=None,
        metadata=at.metadata,
        home=at.home,
        clock=SystemClock(),
        progress=Silent(),
        code=at.home,
    )
    assert again.same
    assert again.difference == 0.0


def test_the_frame_that_an_estimator_gets(at: Fixture, data: TrainingSet) -> None:
    trained = at.train(ESTIMATORS["histogram"](), data)
    estimator = trained.model.network
    assert isinstance(estimator, Estimator)
    assert estimator.libraries.keys() == {"scikit-learn"}
    made = estimator.made(trained.model.weights)
    assert made.feature_names_in_.tolist() == [*(f"v.x{i}" for i in range(6)), "c0", "c1", "flag"]


def test_a_library_s_model_loads_where_nobody_is_trusted_and_an_own_one_does_not(
    at: Fixture, data: TrainingSet
) -> None:
    theirs = at.train(ESTIMATORS["logistic"](), data)
    assert load(Path(theirs.version.path)).model == theirs.model
    own = at.train(Rates(), data)
    with pytest.raises(Refused, match="trusted=True"):
        load(Path(own.version.path))
    assert own.model.signature.initialisation == ("load_names",)
    assert own.model.signature.to_json()["initialisation"] == ("load_names",)


def test_an_own_estimator_answers_in_a_process_without_its_file(at: Fixture, data: TrainingSet) -> None:
    own = at.train(Rates(), data)
    script = f"""
import sys
sys.modules["tests"] = None
from pathlib import Path
from mlplat.model.artifact import load
found = load(Path({str(own.version.path)!r}), trusted=True)
print(found.golden.difference(found.model))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0.0


def test_classes_and_numbers(at: Fixture, data: TrainingSet) -> None:
    table = data.table()
    score = table.column("v.x0").to_numpy() + (table.column("flag").to_numpy(zero_copy_only=False))
    features = data.features[0].fields
    kinds = pa.array(np.where(score > 1, "late", np.where(score > 0, "soon", "early")))
    path = at.home / "classes.arrow"
    classes = write(
        table.set_column(2, "label", kinds), path, name="when", snapshot="c", request=data.request, features=features
    )
    settings = TrainSettings(holdout_s=48 * 86_400, task="multiclass")
    for estimator in (ESTIMATORS["forest"](), ESTIMATORS["lightgbm"](), ESTIMATORS["xgboost"]()):
        trained = at.train(estimator, classes, settings=settings)
        assert trained.metrics["accuracy"] > 0.9
        answers = trained.model.predict(table)
        shares = np.column_stack([answers[f"probability.{c}"] for c in ("early", "late", "soon")])
        assert shares.sum(axis=1) == pytest.approx(1.0)
        assert (answers["class"] == kinds.to_numpy(zero_copy_only=False)).mean() > 0.9

    path = at.home / "numbers.arrow"
    numbers = write(
        table.set_column(2, "label", pa.array(score)),
        path,
        name="size",
        snapshot="n",
        request=data.request,
        features=features,
    )
    settings = TrainSettings(holdout_s=48 * 86_400, task="regression")
    for estimator in (
        encoded(Ridge()),
        encoded(RandomForestRegressor(20, random_state=0)),
        xgboost.XGBRegressor(n_estimators=60, enable_categorical=True),
    ):
        trained = at.train(estimator, numbers, settings=settings)
        assert trained.metrics["r2"] > 0.9
        assert trained.model.predict(table)["value"].shape == (3_000,)


def test_boosting_stops_by_the_rows_held_out_and_the_final_fit_has_as_many_rounds(
    at: Fixture, data: TrainingSet
) -> None:
    for estimator in (
        xgboost.XGBClassifier(
            n_estimators=400, max_depth=3, enable_categorical=True, early_stopping_rounds=5, n_jobs=1
        ),
        lightgbm.LGBMClassifier(n_estimators=400, num_leaves=7, early_stopping_round=5, verbose=-1, n_jobs=1),
    ):
        trained = at.train(estimator, data, final=True)
        rounds = trained.history[0].epoch + 1
        assert 3 < rounds < 390
        assert trained.evaluated is not None
        assert trained.version.version == trained.evaluated.version + 1
        network = trained.model.network
        assert isinstance(network, Estimator)
        made = network.made(trained.model.weights)
        assert made.n_estimators == rounds
        counted = made.get_booster().num_boosted_rounds() if hasattr(made, "get_booster") else made.booster_.num_trees()
        assert counted == rounds
        tags = at.metadata.run(trained.version.run_id)["tags"]
        assert tags[FINAL_OF] == str(trained.evaluated.version)
        assert tags[PARENT_TAG] == trained.evaluated.run_id


def test_what_cannot_be_kept_is_said_before_it_fits(at: Fixture, data: TrainingSet) -> None:
    with pytest.raises(InvalidInput, match=r"holds .*Forgetful.* a class of your own"):
        at.train(Elsewhere(), data)
    with pytest.raises(InvalidInput, match="class of your own"):
        at.train(make_pipeline(FunctionTransformer(stored), LogisticRegression()), data)

    class Local(Forgetful):
        def fit(self, frame: Any, labels: Any) -> None:
            self.kept = data

    with pytest.raises(InvalidInput, match="at the top of a file"):
        at.train(Local(), data)
    assert at.metadata.names() == []
    with pytest.raises(InvalidInput, match="do not begin with an underscore"):
        at.train(Forgetful(), data)


def test_what_an_estimator_raises_is_told_with_what_to_do(at: Fixture, data: TrainingSet) -> None:
    with pytest.raises(UserCodeError, match=r"LogisticRegression.fit raised ValueError: .*in a pipeline before it"):
        at.train(LogisticRegression(), data)
    with pytest.raises(UserCodeError, match=r"Breaks.fit raised ZeroDivisionError: of 9 columns"):
        at.train(Breaks(), data)
    with pytest.raises(InvalidInput, match="has no predict_proba, which a binary task needs"):
        at.train(encoded(LinearSVC()), data)
    with pytest.raises(InvalidInput, match=r"fits by itself: leave out loss"):
        at.train(Rates(), data, loss=lambda raw, labels: raw)
    with pytest.raises(InvalidInput, match=r"Rates fits on one worker.*\"CPU\": 4"):
        at.train(Rates(), data, compute="cpu:2")
    with pytest.raises(UserCodeError, match="metric 'odd' raised"):
        at.train(Rates(), data, metrics={"odd": lambda labels, predictions: 1 / 0})


def test_a_warning_of_the_library_s_becomes_a_note(at: Fixture, data: TrainingSet) -> None:
    class Noted(Silent):
        notes: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    progress: Progress = Noted()
    at.train(encoded(LogisticRegression(max_iter=1)), data, progress=progress)
    assert any("ConvergenceWarning" in text for text in Noted.notes)
    assert any(text.startswith("fitting Pipeline to 2,") for text in Noted.notes)


def test_a_stop_is_heeded_before_it_fits(at: Fixture, data: TrainingSet) -> None:
    found = train(
        data,
        Science(network=Rates()),
        SETTINGS,
        demand=Demand.parse("cpu:0"),
        metadata=at.metadata,
        home=at.home,
        clock=SystemClock(),
        progress=Silent(),
        code=at.home,
        stop=lambda: True,
    )
    assert isinstance(found, Interrupted)
    assert at.metadata.run(found.run_id)["status"] == "SCHEDULED"


def test_the_same_seed_fits_the_same_and_the_caller_s_random_numbers_stay(at: Fixture, data: TrainingSet) -> None:
    np.random.seed(5)
    wanted = np.random.random()
    np.random.seed(5)
    digests = {at.train(encoded(RandomForestClassifier(5)), data).version.digest for _ in range(2)}
    assert np.random.random() == wanted
    assert len(digests) == 1
    other = TrainSettings(holdout_s=48 * 86_400, seed=1)
    assert at.train(encoded(RandomForestClassifier(5)), data, settings=other).version.digest not in digests


def test_a_network_trained_on_all_rows_after_it_was_judged(at: Fixture, data: TrainingSet) -> None:
    data = stored(at, data)
    trained = at.train(mlp((16,)), data, final=True)
    assert trained.evaluated is not None
    judged = load(Path(trained.evaluated.path)).model
    assert judged != trained.model
    held_out = at.metadata.run(trained.version.run_id)
    assert held_out["metrics"]["evaluated_auc"] == trained.metrics["auc"]
    assert not any(name.startswith("best_") for name in held_out["metrics"])
    assert "holdout_start_us" not in held_out["tags"]
    again = reproduce(
        trained.version,
        science=None,
        metadata=at.metadata,
        home=at.home,
        clock=SystemClock(),
        progress=Silent(),
        code=at.home,
    )
    assert again.same
