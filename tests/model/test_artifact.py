"""Models on disk: whole or absent, checked before use."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlplat.errors import Corrupt, InvalidInput, NotFound, Refused, UserCodeError
from mlplat.model import Exported, InputEncoding, Model, Recorded, mlp
from mlplat.model.artifact import Golden, load, save
from mlplat.model.build import build, read_weights
from mlplat.model.canonical import canonical
from mlplat.model.task import BINARY, Task
from mlplat.testing.learnable import learnable

FILES = ("model.json", "weights.safetensors", "golden.json", "requests.json", "MLmodel", "manifest.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    data = learnable(tmp_path_factory.mktemp("data"), rows=300)
    signature = data.signature(BINARY.fields())
    encoding = InputEncoding.fit(data.table(), signature.inputs())
    architecture = mlp((8,), norm="batch")
    weights = read_weights(build(architecture, encoding))
    return Model(network=architecture, weights=weights, encoding=encoding, signature=signature)


@pytest.fixture(scope="module")
def golden(model: Model) -> Golden:
    numbers = {f.name: [0.5, None, float("nan")] for f in model.signature.inputs() if f.dtype == "float64"}
    return Golden.of(model, {**numbers, "c0": ["k1", None, "k2"], "c1": ["k1", "?", "k3"], "flag": [True, None, False]})


def test_what_was_saved_is_loaded(tmp_path: Path, model: Model, golden: Golden) -> None:
    path = save(model, tmp_path / "late", golden=golden)
    assert path == tmp_path / "late" / model.digest
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
    found = load(path, digest=model.digest)
    assert found.model == model
    assert found.model.network == model.network
    assert found.golden == golden
    assert found.golden.difference(found.model) == 0.0


def test_saving_again_changes_nothing_and_leaves_nothing_else(tmp_path: Path, model: Model, golden: Golden) -> None:
    path = save(model, tmp_path, golden=golden)
    before = {p.name: p.stat().st_mtime_ns for p in path.iterdir()}
    assert save(model, tmp_path, golden=golden) == path
    assert {p.name: p.stat().st_mtime_ns for p in path.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, model: Model, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlplat.disk.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(model, tmp_path, golden=golden)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_before_use(tmp_path: Path, model: Model, golden: Golden, name: str) -> None:
    path = save(model, tmp_path, golden=golden)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(Corrupt):
        load(path, digest=model.digest)
    with pytest.raises(Corrupt):
        save(model, tmp_path, golden=golden)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_missing_file_is_named(tmp_path: Path, model: Model, golden: Golden, name: str) -> None:
    path = save(model, tmp_path, golden=golden)
    (path / name).unlink()
    with pytest.raises(Corrupt, match=name):
        load(path)


def test_an_absent_artifact_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model artifact"):
        load(tmp_path / "nothing")


def test_another_model_than_the_registered_one_is_refused(tmp_path: Path, model: Model, golden: Golden) -> None:
    path = save(model, tmp_path, golden=golden)
    with pytest.raises(Corrupt, match="not 0000"):
        load(path, digest="0000")


def test_changed_weights_with_a_matching_manifest_are_found_by_the_models_digest(
    tmp_path: Path, model: Model, golden: Golden
) -> None:
    other = Model(
        network=model.network,
        weights={name: np.zeros_like(value) for name, value in model.weights.items()},
        encoding=model.encoding,
        signature=model.signature,
    )
    mine, theirs = save(model, tmp_path, golden=golden), save(other, tmp_path, golden=golden)
    for name in FILES:
        shutil.copy(theirs / name, mine / name)
    with pytest.raises(Corrupt, match="holds the model"):
        load(mine, digest=model.digest)


def test_a_newer_format_is_refused(tmp_path: Path, model: Model, golden: Golden) -> None:
    path = save(model, tmp_path, golden=golden)
    manifest = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 4}))
    with pytest.raises(Refused, match="newer"):
        load(path)


def test_golden_answers_are_compared_by_what_they_are() -> None:
    class Answering:
        def __init__(self, **answers: object) -> None:
            self.answers = {name: np.array(values) for name, values in answers.items()}

        def predict(self, columns: object) -> object:
            return self.answers

    kept = Golden(inputs={}, outputs={"class": ["a", "b"], "value": [2e5, 0.0]})
    assert kept.difference(Answering(**{"class": ["a", "b"], "value": [2e5 + 0.01, 1e-8]})) == pytest.approx(5e-8)  # type: ignore[arg-type]
    assert kept.difference(Answering(**{"class": ["a", "a"], "value": [2e5, 0.0]})) == 1.0  # type: ignore[arg-type]
    assert np.isnan(kept.difference(Answering(**{"class": ["a", "b"], "value": [2e5, np.nan]})))  # type: ignore[arg-type]


KEPT = Path(__file__).parents[1] / "fixtures" / "model_format_1"


def test_an_artifact_of_the_first_format_loads_and_answers_as_it_did() -> None:
    (path,) = KEPT.iterdir()
    found = load(path, digest=path.name)
    assert found.model.digest == path.name
    assert found.golden.difference(found.model) <= 1e-6


def test_a_model_that_the_first_format_can_hold_is_written_in_it(tmp_path: Path, model: Model, golden: Golden) -> None:
    assert json.loads((save(model, tmp_path, golden=golden) / "model.json").read_bytes())["format"] == 1


@pytest.mark.parametrize(
    "task",
    [
        Task(kind="regression"),
        Task(kind="multiclass", classes=("a", "b", "c")),
        Task(kind="multiclass", classes=(7, 3)),
    ],
)
def test_models_of_other_tasks_are_kept_with_their_answers(
    tmp_path: Path, model: Model, golden: Golden, task: Task
) -> None:
    weights = read_weights(build(mlp((8,), norm="batch"), model.encoding, outputs=task.outputs))
    signature = replace(model.signature, outputs=task.fields())
    other = Model(
        network=mlp((8,), norm="batch"), weights=weights, encoding=model.encoding, signature=signature, task=task
    )
    kept = Golden.of(other, golden.inputs)
    found = load(save(other, tmp_path, golden=kept))
    assert found.model == other
    assert found.model.task == task
    assert found.golden.difference(found.model) == 0.0
    if task.kind == "multiclass":
        flipped = [next(c for c in task.classes if c != found) for found in kept.outputs["class"]]
        assert replace(kept, outputs={**kept.outputs, "class": flipped}).difference(other) == 1.0


def test_a_model_with_recorded_code_is_loaded_only_from_whom_one_trusts(
    tmp_path: Path, model: Model, golden: Golden
) -> None:
    ran = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef network(shape): raise NotImplementedError"
    strange = replace(model, network=Recorded(name="network", code=code, arguments="{}"))
    path = save(strange, tmp_path, golden=golden)
    with pytest.raises(Refused, match="the model is code that runs when it answers"):
        load(path, digest=strange.digest)
    found = load(path, digest=strange.digest, trusted=True).model
    assert found == strange
    assert not ran.exists()
    with pytest.raises(UserCodeError, match="NotImplementedError"):
        found.warm()
    assert ran.exists()


def test_a_program_that_would_do_more_than_compute_does_not_run(tmp_path: Path, model: Model, golden: Golden) -> None:
    weights = {name: [value.dtype.name, list(value.shape)] for name, value in model.weights.items()}
    steps = [["aten.from_file.default", ["/etc/passwd"], {}]]
    program = {"weights": weights, "constants": {}, "steps": steps, "output": {"step": 0}}
    network = Exported(program=canonical(program).decode(), module="their.Network", torch="2.13.0")
    strange = replace(model, network=network)
    path = save(strange, tmp_path, golden=golden)
    assert json.loads((path / "manifest.json").read_bytes())["format"] == 2
    found = load(path).model
    assert found == strange
    with pytest.raises(InvalidInput, match=r"'aten.from_file.default' is not an operator"):
        found.warm()


def test_a_model_without_a_network_or_with_two_is_none(tmp_path: Path, model: Model, golden: Golden) -> None:
    for change in ({}, {"architecture": {"layers": []}, "exported": {}}):
        path = save(model, tmp_path / str(len(change)), golden=golden)
        spec = json.loads((path / "model.json").read_bytes())
        content = json.dumps({name: value for name, value in spec.items() if name != "architecture"} | change).encode()
        (path / "model.json").write_bytes(content)
        manifest = json.loads((path / "manifest.json").read_bytes())
        manifest["files"]["model.json"] = hashlib.sha256(content).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(Corrupt, match="not a model"):
            load(path)
