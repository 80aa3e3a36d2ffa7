from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mlplat.clock import SystemClock
from mlplat.errors import Corrupt
from mlplat.model import Recorded, Shape, artifact
from mlplat.model.architecture import mlp
from mlplat.model.build import build, read_weights
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.signature import Field, Signature
from mlplat.model.task import BINARY
from mlplat.serve.backbone import Backbone
from mlplat.serve.load import load
from mlplat.serve.state import Entry, Member
from tests.model.networks import make_linear

SIGNATURE = Signature(entities=(), request=(Field(name="x", dtype="float64"),), features=(), outputs=BINARY.fields())
INPUTS = {"x": [0.0, None]}


@pytest.fixture(scope="module")
def model() -> Model:
    encoding = InputEncoding.fit(pa.table({"x": [0.0, 1.0, 2.0]}), SIGNATURE.inputs())
    architecture = mlp((4,))
    weights = read_weights(build(architecture, encoding))
    return Model(network=architecture, weights=weights, encoding=encoding, signature=SIGNATURE)


def alone(name: str, member: Member) -> Backbone:
    raise AssertionError("nobody here has processes of its own")


def entry(path: Path, model: Model) -> Entry:
    return Entry(name="late", version=4, digest=model.digest, path=str(path), url="u", cluster="c", epoch=9)


def test_a_model_is_served_by_gold_alone_at_the_epoch_of_the_record(model: Model, tmp_path: Path) -> None:
    path = artifact.save(model, tmp_path, golden=artifact.Golden.of(model, INPUTS))
    served = load(entry(path, model), alone, SystemClock())
    assert [(arm.name, arm.version, arm.share) for arm in served.table.arms] == [("gold", 4, 1.0)]
    assert (served.name, served.table.epoch, served.gold.digest) == ("late", 9, model.digest)


def test_recorded_code_of_the_own_home_is_served(model: Model, tmp_path: Path) -> None:
    network = Recorded.of(make_linear)
    weights = read_weights(network.make(Shape.of(model.encoding, 1)))
    recorded = replace(model, network=network, weights=weights)
    path = artifact.save(recorded, tmp_path, golden=artifact.Golden.of(recorded, INPUTS))
    assert load(entry(path, recorded), alone, SystemClock()).gold.digest == recorded.digest


def test_a_machine_that_answers_the_golden_rows_otherwise_does_not_serve(model: Model, tmp_path: Path) -> None:
    golden = artifact.Golden(inputs=INPUTS, outputs={"probability": [0.123, 0.456]})
    path = artifact.save(model, tmp_path, golden=golden)
    assert json.loads((path / "golden.json").read_text())["outputs"]["probability"] == [0.123, 0.456]
    with pytest.raises(Corrupt, match="golden rows"):
        load(entry(path, model), alone, SystemClock())
