"""A model on disk: one folder named by the model's digest, written whole or not at all, and checked before anything is
read.

    model.json           format, network, encoding, signature, task
    weights.safetensors  the weights
    golden.json          a few input rows and the answers that this model gave when it was made
    requests.json        a few requests as callers make them, to warm a server with
    inputs.sketch        what the inputs were like that it learnt from, and
    outputs.sketch       what it answered to rows that it did not learn from: `TableSketch`es
    MLmodel              for MLflow, which so loads it as a pyfunc
    manifest.json        the model's digest and the sha256 of each other file

The first three make the model; artifacts of older releases have no more.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from mlplat.disk import sync
from mlplat.errors import Corrupt, InvalidInput, NotFound, Refused
from mlplat.model.architecture import Architecture
from mlplat.model.canonical import canonical
from mlplat.model.estimator import Estimator
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import NETWORKS, Model, Network
from mlplat.model.pyfunc import description
from mlplat.model.signature import Signature
from mlplat.model.task import BINARY, Task
from mlplat.stats.table import TableSketch

FORMAT = 3
"""1: the vocabulary, and the probability of a label. 2: other networks, other tasks. 3: estimators."""
GOLDEN_TOLERANCE = 1e-6
_FILES = ("model.json", "weights.safetensors", "golden.json")
_MORE = ("requests.json", "inputs.sketch", "outputs.sketch", "MLmodel")
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Input columns (plain values) and the answers to them."""

    inputs: Mapping[str, Sequence[Any]]
    outputs: Mapping[str, Sequence[Any]]

    @classmethod
    def of(cls, model: Model, inputs: Mapping[str, Sequence[Any]]) -> Golden:
        """Ask the model. NaN is written as null, which means the same to it."""
        names = [field.name for field in model.signature.inputs()]
        plain = {name: [None if value != value else value for value in inputs[name]] for name in names}
        return cls(inputs=plain, outputs={name: value.tolist() for name, value in model.predict(plain).items()})

    def difference(self, model: Model) -> float:
        """The largest difference between the kept answers and the model's: absolute, of values above 1 relative; NaN if it
        answers NaN. Another class is a difference of 1."""
        answers = model.predict(self.inputs)
        gaps = [_difference(np.asarray(kept), answers[name]) for name, kept in self.outputs.items()]
        return float(np.max(gaps, initial=0.0))  # of Python's `max`, a NaN in the middle is not the greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What `inputs` a model learnt from (a sample of many), and its `outputs` on rows that it did not learn from."""

    inputs: TableSketch
    outputs: TableSketch


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What a folder held. `requests` are bodies with entity keys and request fields. Those of older releases have none, and no
    reference."""

    model: Model
    golden: Golden
    reference: Reference | None = None
    requests: tuple[Mapping[str, Any], ...] = ()


def save(
    model: Model,
    folder: Path,
    *,
    golden: Golden,
    reference: Reference | None = None,
    requests: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write to `folder/<digest>` and return that. The same model again changes nothing."""
    target = folder / model.digest
    if target.exists():
        load(target, digest=model.digest, trusted=True)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        _write(unfinished, Artifact(model=model, golden=golden, reference=reference, requests=tuple(requests)))
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():  # else another process saved the same model at the same time
                raise
        sync(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def load(path: Path, *, digest: str | None = None, trusted: bool = False) -> Artifact:
    """Read a model. Every file's digest is checked before it is parsed, and the model's own afterwards, against
    `digest` if given. `trusted` says that code which comes with the model may run when it answers.

    Raises `NotFound` if there is no artifact, `Corrupt` if bytes are not what was written, `Refused` for a newer
    format, and for recorded code unless it is trusted.
    """
    contents = _verified(path)
    spec = json.loads(contents["model.json"])
    if spec["format"] > FORMAT:
        raise Refused(
            f"{path}: format {spec['format']} was written by a newer mlplat, and this one reads up to {FORMAT}."
        )
    golden = json.loads(contents["golden.json"])
    try:
        model = Model(
            network=_network(spec),
            weights=safetensors.load(contents["weights.safetensors"]),
            encoding=InputEncoding.from_json(spec["encoding"]),
            signature=Signature.from_json(spec["signature"]),
            task=Task.from_json(spec["task"]) if "task" in spec else BINARY,
        )
    except (KeyError, TypeError, ValueError, SafetensorError, InvalidInput) as error:
        raise Corrupt(f"{path}: the files are whole, but not a model: {error}") from error
    if model.runs_code and not trusted:
        raise Refused(
            f"{path}: the model is code that runs when it answers. If you trust who made it, load it with trusted=True."
        )
    if model.digest != _manifest(path)["digest"] or model.digest != (digest or model.digest):
        raise Corrupt(f"{path}: holds the model {model.digest}, not {digest or _manifest(path)['digest']}.")
    return Artifact(
        model=model,
        golden=Golden(inputs=golden["inputs"], outputs=golden["outputs"]),
        reference=_reference(contents),
        requests=tuple(json.loads(contents.get("requests.json", b"[]"))),
    )


def place(home: Path, name: str, digest: str) -> Path:
    """Where a home has the artifact of a registered model."""
    return home / "models" / name / digest


def _reference(contents: Mapping[str, bytes]) -> Reference | None:
    if "inputs.sketch" not in contents:
        return None
    inputs, outputs = (TableSketch.from_bytes(contents[name]) for name in ("inputs.sketch", "outputs.sketch"))
    return Reference(inputs=inputs, outputs=outputs)


def _network(spec: Mapping[str, Any]) -> Network:
    (name,) = NETWORKS.keys() & spec.keys()
    return NETWORKS[name].from_json(spec[name])


def _format(model: Model) -> int:
    """The oldest that can hold the model, so that an older mlplat reads what it can."""
    if isinstance(model.network, Estimator):
        return 3
    return 1 if model.task == BINARY and isinstance(model.network, Architecture) else 2


def _difference(kept: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    if kept.dtype.kind != "f":
        return float(np.any(kept != found))
    return float(np.max(np.abs(found - kept) / np.maximum(1.0, np.abs(kept)), initial=0.0))


def _write(folder: Path, artifact: Artifact) -> None:
    model, golden, reference = artifact.model, artifact.golden, artifact.reference
    contents = {
        "model.json": canonical({"format": _format(model), **model.spec()}),
        "weights.safetensors": safetensors.save(dict(model.weights)),
        "golden.json": canonical({"inputs": golden.inputs, "outputs": golden.outputs}),
        "requests.json": canonical(list(artifact.requests)),
        "MLmodel": canonical(description(model)),
    }
    if reference is not None:
        contents |= {"inputs.sketch": reference.inputs.to_bytes(), "outputs.sketch": reference.outputs.to_bytes()}
    files = {name: _digest(content) for name, content in contents.items()}
    contents[_MANIFEST] = canonical({"format": _format(model), "digest": model.digest, "files": files})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        sync(folder / name)
    folder.chmod(0o755)  # mkdtemp gives a folder that only its owner can read


def _verified(path: Path) -> dict[str, bytes]:
    manifest = _manifest(path)
    contents = {}
    for name in (*_FILES, *(name for name in _MORE if name in manifest["files"])):
        try:
            contents[name] = (path / name).read_bytes()
        except FileNotFoundError:
            raise Corrupt(f"{path}: {name} is missing. Restore the folder from a copy, or train again.") from None
        if _digest(contents[name]) != manifest["files"].get(name):
            raise Corrupt(f"{path}: {name} is not what was written. Restore the folder from a copy, or train again.")
    return contents


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        newer = manifest["format"] > FORMAT
        if not newer and not (isinstance(manifest["digest"], str) and isinstance(manifest["files"], dict)):
            raise TypeError("wrong fields")
    except FileNotFoundError:
        raise NotFound(f"{path}: there is no model artifact.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path}: {_MANIFEST} is not what was written ({error}).") from None
    if newer:
        raise Refused(
            f"{path}: format {manifest['format']} was written by a newer mlplat, and this one reads up to {FORMAT}."
        )
    return dict(manifest)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
