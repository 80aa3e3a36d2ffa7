"""Estimators as data: one spelling, and no code from a stranger."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from mlplat.errors import InvalidInput, Refused, UserCodeError
from mlplat.model import Estimator, Task
from mlplat.model import estimator as module
from mlplat.model.estimator import initialised, is_estimator
from mlplat.model.frame import framing, predictions
from mlplat.model.inputs import CategoricalInput, InputEncoding, NumericInput

pytestmark = pytest.mark.slow

BINARY = Task(kind="binary")


def _fitted() -> Any:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 3))
    return RandomForestClassifier(5, random_state=0).fit(x, x[:, 0] > 0)


def test_equal_estimators_have_one_spelling_and_a_loaded_one_has_it_too() -> None:
    one, weights = Estimator.of(_fitted())
    other, others = Estimator.of(_fitted())
    again, agains = Estimator.of(one.made(weights))
    assert one == other == again == Estimator.from_json(one.to_json())
    assert {n: w.tobytes() for n, w in weights.items()} == {n: w.tobytes() for n, w in others.items()}
    assert {n: w.tobytes() for n, w in weights.items()} == {n: w.tobytes() for n, w in agains.items()}


@pytest.mark.parametrize("call", [os.system, os.mkdir, np.load, eval, pd.read_pickle, np.testing.rundocs])
def test_a_function_that_does_more_than_compute_is_neither_kept_nor_loaded(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = FunctionTransformer(call)
    with pytest.raises(InvalidInput, match=r"class of your own|cannot be kept"):
        Estimator.of(hostile)
    with monkeypatch.context() as there:  # what somebody else's program would have written
        there.setattr(module, "_beyond", lambda data: ([], []))
        try:
            kept, weights = Estimator.of(hostile)
        except InvalidInput:  # skops itself does not write it
            return
    with pytest.raises(Refused, match="which no fitted estimator holds"):
        kept.made(weights)


def test_a_class_outside_the_libraries_is_refused_whatever_it_is() -> None:
    kept, weights = Estimator.of(LogisticRegression())
    for name in (
        "subprocess.Popen",
        "mlflow.pyfunc.PythonModel",
        "sklearn.datasets.fetch_openml",
        "sklearn.nowhere.Thing",
    ):
        path, _, kind = name.rpartition(".")
        state = kept.state.replace('"__class__":"LogisticRegression"', f'"__class__":"{kind}"')
        state = state.replace('"__module__":"sklearn.linear_model._logistic"', f'"__module__":"{path}"')
        assert state != kept.state
        forged = Estimator(kind=kept.kind, state=state, libraries=kept.libraries)
        with pytest.raises((Refused, InvalidInput)):
            forged.made(weights)


def test_the_frame() -> None:
    encoding = InputEncoding(
        numeric=(NumericInput(name="x", dtype="int64", mean=5.0, scale=2.0, indicator=False),),
        categorical=(
            CategoricalInput(name="carrier", dtype="string", vocabulary=("AA", "UA")),
            CategoricalInput(name="late", dtype="bool", vocabulary=(True,)),
        ),
    )
    rows = {"x": [1, None, 3], "carrier": ["UA", "new", None], "late": [True, False, None], "more": [0, 0, 0]}
    frame = framing(encoding)(rows)
    wanted = pd.DataFrame(
        {
            "x": [1.0, np.nan, 3.0],
            "carrier": pd.Categorical(["UA", None, None], categories=["AA", "UA"]),
            "late": [1.0, np.nan, np.nan],  # training showed no False
        }
    )
    pd.testing.assert_frame_equal(frame, wanted, check_exact=True)
    few = framing(encoding)({name: tuple(values[:1]) for name, values in rows.items()})
    pd.testing.assert_frame_equal(few, wanted.iloc[:1])
    with pytest.raises(InvalidInput, match="'carrier' is missing"):
        framing(encoding)({"x": [1], "late": [True]})
    with pytest.raises(InvalidInput, match="'carrier' has 2 rows"):
        framing(encoding)({"x": [1], "late": [True], "carrier": ["AA", "AA"]})
    with pytest.raises(InvalidInput, match="'x'"):
        framing(encoding)({"x": ["1"], "late": [True], "carrier": ["AA"]})


class Gives:
    """Answers what it is told to."""

    def __init__(self, answer: Any, classes: Any = None) -> None:
        self.answer = answer
        if classes is not None:
            self.classes_ = np.array(classes)

    def fit(self, frame: Any, labels: Any) -> None:
        """Nothing."""

    def predict_proba(self, frame: Any) -> Any:
        return self.answer

    predict = predict_proba


def test_predictions_of_every_task() -> None:
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    two = [[0.75, 0.25], [0.5, 0.5]]
    assert predictions(Gives(two), frame, BINARY).tolist() == [0.25, 0.5]
    assert predictions(Gives(two, [1, 0]), frame, BINARY).tolist() == [0.75, 0.5]
    three = Task(kind="multiclass", classes=("a", "b", "c"))
    assert predictions(Gives(two, [0, 2]), frame, three).tolist() == [[0.75, 0.0, 0.25], [0.5, 0.0, 0.5]]
    number = Task(kind="regression")
    assert predictions(Gives([[1], [2]]), frame, number).tolist() == [1.0, 2.0]
    assert predictions(Gives(None), frame.iloc[:0], three).shape == (0, 3)
    for wrong in ([0.5, 0.5], [[0.5, 0.5]], [[0.5], [0.5]]):
        with pytest.raises(InvalidInput, match=r"gives the shape .* needs \(2, 2\)"):
            predictions(Gives(wrong), frame, BINARY)
    with pytest.raises(UserCodeError, match="predict_proba raised"):
        predictions(Gives("no numbers"), frame, BINARY)


def test_what_is_an_estimator() -> None:
    assert is_estimator(LogisticRegression())
    assert not is_estimator(LogisticRegression)
    assert not is_estimator(lambda shape: None)


def test_initialisation_runs_in_order_and_names_what_raises() -> None:
    class Two(Gives):
        def first(self) -> None:
            self.did = ["first"]

        def second(self) -> None:
            self.did.append("second")

        def third(self) -> None:
            raise OSError("no such table")

    assert initialised(Two(None), ("first", "second")).did == ["first", "second"]
    with pytest.raises(UserCodeError, match=r"Two.third\(\) raised OSError: no such table"):
        initialised(Two(None), ("third",))
