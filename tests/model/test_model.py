"""A model as a value: its answers, its digest, and that torch stays away until it runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mlplat.errors import InvalidInput
from mlplat.model import Architecture, InputEncoding, Model, mlp
from mlplat.model.architecture import Activation, Dense, Norm, Residual
from mlplat.model.build import build, read_weights
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.model.task import BINARY
from mlplat.testing.learnable import learnable

BLOCKS = Architecture(
    layers=(
        Dense(units=16),
        Norm(name="batch"),
        Residual(layers=(Dense(units=24), Activation(name="gelu"), Norm(name="layer"))),
    )
)


def untrained(folder: Path, architecture: Architecture, *, seed: int = 0) -> tuple[Model, pa.Table]:
    data = learnable(folder, rows=1_000)
    table = data.table()
    signature = data.signature(BINARY.fields())
    encoding = InputEncoding.fit(table, signature.inputs())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = read_weights(build(architecture, encoding))
    return Model(network=architecture, weights=weights, encoding=encoding, signature=signature), table


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", [mlp((128, 64), dropout=0.5), BLOCKS, mlp(())], ids=["mlp", "blocks", "linear"]
)
def test_a_row_is_answered_alone_as_in_a_batch(tmp_path: Path, architecture: Architecture) -> None:
    model, table = untrained(tmp_path, architecture)
    whole = model.predict(table)["probability"]
    assert whole.dtype == np.float64
    assert ((whole > 0) & (whole < 1)).all()
    for i in range(40):
        row = {name: [value] for name, value in table.slice(i, 1).to_pylist()[0].items()}
        assert abs(model.predict(row)["probability"][0] - whole[i]) <= 1e-6
    for start, size in ((0, 7), (100, 33), (500, 256)):
        part = model.predict(table.slice(start, size))["probability"]
        assert np.abs(part - whole[start : start + size]).max() <= 1e-6


def test_extreme_and_missing_inputs_still_give_a_probability(tmp_path: Path) -> None:
    model, table = untrained(tmp_path, mlp((8,)))
    row = {name: [None] for name in table.column_names}
    assert 0 < model.predict(row)["probability"][0] < 1
    row |= {"v.x0": [1e300], "v.x1": [float("-inf")], "c0": ["never seen"]}
    assert np.isfinite(model.predict(row)["probability"]).all()


def test_no_rows_give_no_answers(tmp_path: Path) -> None:
    model, table = untrained(tmp_path, mlp((8,)))
    assert model.predict(table.slice(0, 0))["probability"].shape == (0,)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    model, _ = untrained(tmp_path, mlp((8,)))
    again, _ = untrained(tmp_path, mlp((8,)))
    assert model == again
    assert hash(model) == hash(again)
    other, _ = untrained(tmp_path, mlp((8,)), seed=1)
    changed = {name: value + 1e-7 * (name == "head.bias") for name, value in model.weights.items()}
    slower = mlp((8,), dropout=0.1)
    assert len({m.digest for m in (model, other, replace(model, weights=changed), replace(model, network=slower))}) == 4


def test_nothing_in_a_model_changes(tmp_path: Path) -> None:
    model, _ = untrained(tmp_path, mlp((8,)))
    with pytest.raises(ValueError, match="read-only"):
        model.weights["head.bias"][0] = 1.0


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    model, table = untrained(tmp_path, mlp((8,)))
    with pytest.raises(InvalidInput, match="do not fit"):
        replace(model, network=mlp((9,))).predict(table)


def test_a_signature_that_is_not_the_encodings_is_refused(tmp_path: Path) -> None:
    model, _ = untrained(tmp_path, mlp((8,)))
    with pytest.raises(InvalidInput, match="'extra'"):
        replace(model, signature=replace(model.signature, request=(Field(name="extra", dtype="int64"),)))
    with pytest.raises(InvalidInput, match="outputs"):
        replace(model, signature=replace(model.signature, outputs=()))


@pytest.mark.slow
def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, mlplat.model, mlplat.train; assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_signature_has_arrow_schemas_and_its_json_is_as_before_there_was_initialisation() -> None:
    signature = Signature(
        entities=(Field(name="shop", dtype="string", required=True),),
        request=(Field(name="size", dtype="float64"), Field(name="open", dtype="bool", required=True)),
        features=(FeatureRef(view="v", version="1", keys=("shop",), fields=(Field(name="n", dtype="int64"),)),),
        outputs=BINARY.fields(),
    )
    wanted = [("size", pa.float64(), True), ("open", pa.bool_(), False), ("v.n", pa.int64(), True)]
    assert signature.schema() == pa.schema([pa.field(name, kind, nullable=null) for name, kind, null in wanted])
    assert signature.output_schema() == pa.schema([pa.field("probability", pa.float64(), nullable=False)])
    assert "initialisation" not in signature.to_json()
    prepared = replace(signature, initialisation=("open_table",))
    assert Signature.from_json(prepared.to_json()) == prepared
    assert Signature.from_json(signature.to_json()) == signature
