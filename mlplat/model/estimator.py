"""A fitted estimator as a value: data in which no code can hide, or with a class of the user's own, its code as text.

Fitted objects of scikit-learn, XGBoost and LightGBM are usually kept as pickles, and to read one is to run whatever its
author wrote. `skops` writes their parts down by name instead. What it writes has addresses of memory and random file names in
it; here there are none, so that equal objects have one spelling.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlplat.errors import InvalidInput, Refused, UserCodeError
from mlplat.model.canonical import canonical
from mlplat.source_code import load, module_text

Array = np.ndarray[Any, Any]

LIBRARIES = {"sklearn": "scikit-learn", "scipy": "scipy", "xgboost": "xgboost", "lightgbm": "lightgbm"}
"""By their module: those whose classes are taken from a stranger. Making one runs its library's code alone."""
_SCHEMA = "schema.json"
# Functions and types that fitted objects of these libraries hold, and that do no more than compute.
_HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "functools.partial",
        "numpy.dtype",
        "numpy.mean",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.utils.validation.check_array",
        *(
            f"sklearn.feature_selection._univariate_selection.{name}"
            for name in ("chi2", "f_classif", "f_regression", "r_regression")
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """`kind` is its class, `state` canonical JSON in which the model's weights stand for the larger parts, `libraries` are
    versions of what made it. `code` is a Python module with the class, where that is the user's own."""

    kind: str
    state: str
    libraries: Mapping[str, str]
    code: str | None = None

    @classmethod
    def of(cls, estimator: Any) -> tuple[Estimator, dict[str, Array]]:
        """Of an object, fitted or not; and the weights, by name, as bytes. Of one of the user's own the attributes are kept whose
        names do not begin with an underscore.

        `InvalidInput` if a part of it is of no library that is known here, or of the user's own but for its class.
        """
        own = type(estimator).__module__.partition(".")[0] not in LIBRARIES
        kind = type(estimator).__name__ if own else f"{type(estimator).__module__}.{type(estimator).__qualname__}"
        code = _code(type(estimator)) if own else None
        held = (
            {name: value for name, value in vars(estimator).items() if not name.startswith("_")} if own else estimator
        )
        state, weights = _written(kind, held)
        roots = {name for name in LIBRARIES if f'"{name}.' in state}
        return cls(kind=kind, state=state, libraries=_versions(roots), code=code), weights

    def made(self, weights: Mapping[str, Array]) -> Any:
        """The object again. Runs `code`, if there is some.

        `Refused` if the state names what no fitted estimator holds, `InvalidInput` if a library is missing.
        """
        from skops.io import loads

        data = _archive(self.state, weights)
        known, strange = _beyond(data)
        if strange:
            raise Refused(
                f"{self.kind} holds {', '.join(strange[:3])}, which no fitted estimator holds: it is not loaded"
            )
        found = loads(data, trusted=known)
        if self.code is None:
            return found
        made: Any = load("estimator", self.kind, self.code, remedy="")
        own = made.__new__(made)
        vars(own).update(found)
        return own

    def to_json(self) -> dict[str, Any]:
        code = {} if self.code is None else {"code": self.code}
        return {"kind": self.kind, "state": json.loads(self.state), "libraries": dict(self.libraries), **code}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Estimator:
        state = canonical(value["state"]).decode()
        return cls(kind=value["kind"], state=state, libraries=dict(value["libraries"]), code=value.get("code"))


def is_estimator(value: object) -> bool:
    """Whether it is an object that fits and predicts, by the convention of scikit-learn; a class is none."""
    return (
        not isinstance(value, type)
        and callable(getattr(value, "fit", None))
        and any(callable(getattr(value, name, None)) for name in ("predict", "predict_proba"))
    )


def _code(kind: type) -> str:
    code = module_text(kind)
    if code is None:
        raise InvalidInput(
            f"{kind.__name__!r} uses a name that its module alone cannot give, such as a variable of the function around "
            "it: define it at the top of a file"
        )
    return code


def initialisation_of(estimator: Any) -> tuple[str, ...]:
    """The methods that an estimator of the user's own names in `initialisation`: they are called before it fits, and wherever
    it is loaded before it answers."""
    named = getattr(type(estimator), "initialisation", ())
    if not isinstance(named, tuple) or not all(callable(getattr(estimator, str(name), None)) for name in named):
        raise InvalidInput(
            f"{type(estimator).__name__}.initialisation is {named!r}: it must be a tuple of the names of its methods"
        )
    return named


def initialised(estimator: Any, tasks: Iterable[str]) -> Any:
    """After its methods of these names, in their order. `UserCodeError` if one raises."""
    for task in tasks:
        try:
            getattr(estimator, task)()
        except Exception as error:
            raise UserCodeError(
                f"{type(estimator).__name__}.{task}() raised {type(error).__name__}: {error}"
            ) from error
    return estimator


def _written(kind: str, value: Any) -> tuple[str, dict[str, Array]]:
    from skops.io import dumps

    try:
        data = dumps(value)
    except Exception as error:
        raise InvalidInput(
            f"{kind} cannot be kept: {error}. It may hold numbers, texts, arrays, lists and mappings of them, and estimators of "
            f"{', '.join(LIBRARIES.values())}"
        ) from error
    if strange := _beyond(data)[1]:
        raise InvalidInput(
            f"{kind} holds {', '.join(strange[:3])}, which is no class of {', '.join(LIBRARIES.values())}: put it into a class "
            "of your own with fit and predict, whose code is kept with the model"
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read(_SCHEMA))
        files = {name: _unpadded(name, archive.read(name)) for name in archive.namelist() if name != _SCHEMA}
    del schema["_skops_version"]  # it has the number of its form besides
    names = {name: hashlib.sha256(content).hexdigest()[:16] + Path(name).suffix for name, content in files.items()}
    weights = {names[name]: np.frombuffer(content, dtype=np.uint8) for name, content in files.items()}
    return canonical(_spelled(schema, names)).decode(), weights


def _unpadded(name: str, content: bytes) -> bytes:
    """Between the fields of an array of records, such as a tree's nodes, are bytes that nobody set: here zeros."""
    if not name.endswith(".npy"):
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if not array.dtype.names:
        return content
    clean, out = np.zeros(array.shape, array.dtype), io.BytesIO()  # zeros_like sets the fields alone
    for field in array.dtype.names:
        clean[field] = array[field]
    np.save(out, clean, allow_pickle=False)
    return out.getvalue()


def _spelled(node: Any, names: Mapping[str, str]) -> Any:
    """The schema without addresses, which say what is one object: loaded, each has its own; and with other file names."""
    if isinstance(node, list):
        return [_spelled(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    out = {name: _spelled(item, names) for name, item in node.items() if name != "__id__"}
    return {**out, "file": names[node["file"]]} if node.get("file") in names else out


def _archive(state: str, weights: Mapping[str, Array]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, value in weights.items():
            archive.writestr(name, value.tobytes())
        archive.writestr(_SCHEMA, state)
    return held.getvalue()


def _beyond(data: bytes) -> tuple[list[str], list[str]]:
    """The names of types and functions beyond those that skops takes anyway: those that may be there, and the others."""
    from skops.io import get_untrusted_types

    found = get_untrusted_types(data=data)
    known = [name for name in found if name in _HARMLESS or _is_known_class(name)]
    return known, sorted(set(found) - set(known))


def _is_known_class(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if module.partition(".")[0] not in LIBRARIES:
        return False
    try:
        return inspect.isclass(getattr(importlib.import_module(module), attribute, None))
    except ImportError as error:
        library = module.partition(".")[0]
        raise InvalidInput(f"{name} needs its library: pip install 'mlplat[{library}]' ({error})") from error


def _versions(roots: set[str]) -> dict[str, str]:
    return {LIBRARIES[root]: importlib.import_module(root).__version__ for root in sorted(roots)}
