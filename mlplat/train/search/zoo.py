"""The models that `automl` tries: a few kinds, each with the settings that matter most."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mlplat.model import space, vocabulary
from mlplat.model.space import Choice, Made
from mlplat.train.settings import TaskKind


def zoo(task: TaskKind, seed: int) -> dict[str, Any]:
    """A network; linear models, boosted trees and a forest of scikit-learn; XGBoost and LightGBM where they are installed."""
    kinds: dict[str, Any] = {"network": {"network": _network(), "learning_rate": space.number(1e-4, 3e-2, log=True)}}
    number = task == "regression"
    if find_spec("sklearn"):
        kinds |= {
            "linear": {"network": _linear(number=number)},
            "boosted trees": {"network": _boosted(seed, number=number)},
            "forest": {"network": _forest(seed, number=number)},
        }
    if find_spec("lightgbm"):
        kinds["lightgbm"] = {"network": _lightgbm(seed, number=number)}
    if find_spec("xgboost"):
        kinds["xgboost"] = {"network": _xgboost(seed, number=number)}
    return kinds


def _network() -> Made:
    width: Choice = space.choice(32, 64, 128, 256, name="width")
    block = [
        vocabulary.dense(width),
        space.choice(none=[], layer=[vocabulary.norm("layer")], name="norm"),
        vocabulary.activation(space.choice("relu", "silu", name="activation")),
        vocabulary.dropout(space.number(0.0, 0.3, name="dropout")),
    ]
    return vocabulary.network(
        *block, space.repeat(vocabulary.connection(*block, name="connection"), space.integer(0, 3))
    )


def _linear(*, number: bool) -> Made:
    from sklearn.linear_model import LogisticRegression, Ridge

    if number:
        return space.made(_prepared, space.made(Ridge, alpha=space.number(1e-3, 1e3, log=True)))
    return space.made(_prepared, space.made(LogisticRegression, C=space.number(1e-3, 1e2, log=True), max_iter=1000))


def _forest(seed: int, *, number: bool) -> Made:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    kind = ExtraTreesRegressor if number else ExtraTreesClassifier
    leaf, share = space.integer(1, 64, log=True), space.number(0.2, 1.0)
    return space.made(
        _prepared, space.made(kind, n_estimators=200, min_samples_leaf=leaf, max_features=share, random_state=seed)
    )


def _prepared(estimator: Any) -> Any:
    """After what it needs: numbers without gaps on one scale, and a column for each category."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    texts = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=10)
    columns = make_column_transformer(
        (texts, make_column_selector(dtype_include="category")),
        (numbers, make_column_selector(dtype_exclude="category")),
    )
    return make_pipeline(columns, estimator)


def _boosted(seed: int, *, number: bool) -> Made:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return space.made(
        HistGradientBoostingRegressor if number else HistGradientBoostingClassifier,
        learning_rate=space.number(0.02, 0.3, log=True),
        max_leaf_nodes=space.integer(7, 127, log=True),
        min_samples_leaf=space.integer(5, 200, log=True),
        l2_regularization=space.number(1e-3, 10, log=True),
        max_iter=space.integer(50, 400, log=True),
        categorical_features="from_dtype",
        random_state=seed,
    )


def _lightgbm(seed: int, *, number: bool) -> Made:
    from lightgbm import LGBMClassifier, LGBMRegressor

    return space.made(
        LGBMRegressor if number else LGBMClassifier,
        learning_rate=space.number(0.02, 0.3, log=True),
        num_leaves=space.integer(7, 127, log=True),
        min_child_samples=space.integer(5, 200, log=True),
        n_estimators=space.integer(50, 400, log=True),
        n_jobs=1,
        random_state=seed,
        verbosity=-1,
    )


def _xgboost(seed: int, *, number: bool) -> Made:
    from xgboost import XGBClassifier, XGBRegressor

    return space.made(
        XGBRegressor if number else XGBClassifier,
        learning_rate=space.number(0.02, 0.3, log=True),
        max_depth=space.integer(3, 10),
        min_child_weight=space.number(1, 50, log=True),
        n_estimators=space.integer(50, 400, log=True),
        enable_categorical=True,
        n_jobs=1,
        random_state=seed,
    )
