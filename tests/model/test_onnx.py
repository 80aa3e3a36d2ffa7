"""Models as ONNX files: onnxruntime answers as the model does, and what cannot be exported says why."""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from mlplat.errors import InvalidInput
from mlplat.model import BINARY, Architecture, InputEncoding, Model, Shape, Signature, Task
from mlplat.model.architecture import Activation, Dense, InputBlock, Norm, Residual
from mlplat.model.artifact import Golden
from mlplat.model.build import build, made, read_weights
from mlplat.model.estimator import Estimator
from mlplat.model.export import export, record
from mlplat.model.onnx import OUTPUTS, export_onnx
from tests.model.networks import Attending, Branching, Gated, Linear
from tests.model.support import encoding_of, rows_of, signature_of

pytestmark = pytest.mark.slow  # torch's exporter takes seconds when it starts

TASKS = (BINARY, Task(kind="multiclass", classes=("a", "b", "c")), Task(kind="regression"))
BLOCKS = Architecture(
    input=InputBlock(dropout=0.1),
    layers=(
        Dense(units=16),
        Norm(name="batch"),
        Residual(layers=(Dense(units=24), Activation(name="gelu"), Norm(name="layer"))),
    ),
)


def model_of(network: Any, encoding: InputEncoding, task: Task = BINARY, *, keep: str = "program") -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(network, Architecture):
            module = build(network, encoding, outputs=task.outputs)
        else:
            module = made(network, Shape.of(encoding, task.outputs))
        with torch.no_grad():  # also running means and variances are what training makes of them
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.rand_like(value) / 4)
    kept = network
    if not isinstance(network, Architecture):
        kept = export(module, encoding) if keep == "program" else record(network, module, encoding)
    return Model(
        network=kept,
        weights=read_weights(module),
        encoding=encoding,
        signature=signature_of(encoding, task),
        task=task,
    )


def answers(path: Path, numeric: Any, codes: Any) -> Any:
    """Of onnxruntime, which is a program of others."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"numeric": numeric, "codes": codes})
    return found


def predictions(model: Model, columns: Any) -> Any:
    found = model.predict(columns)
    if model.task.kind == "multiclass":
        return np.stack([found[f"probability.{name}"] for name in model.task.classes], axis=1)
    return found[model.task.fields()[0].name]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("network", [BLOCKS, Gated], ids=["vocabulary", "own"])
def test_another_runtime_answers_as_the_model_does(network: Any, task: Task, tmp_path: Path) -> None:
    model = model_of(network, encoding_of(3, (4, 9)), task)
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()  # torch would note whose line each step is
    for rows in (1, 37):
        columns = rows_of(model.encoding, rows)
        wanted = predictions(model, columns)
        found = answers(path, *model.encoding.encode(columns))
        assert (found.shape, found.dtype) == (wanted.shape, np.float32)
        assert np.abs(found - wanted).max() <= 1e-5


@pytest.mark.parametrize(
    ("network", "encoding", "keep"),
    [
        (Attending, encoding_of(3, (4,)), "program"),
        (Gated, encoding_of(2), "program"),
        (partial(Gated, width=3), encoding_of(0, (5,)), "program"),
        (Linear, encoding_of(2, (3,)), "code"),
    ],
    ids=["attention", "numbers alone", "categories alone", "code"],
)
def test_it_gives_the_golden_answers_whatever_the_network_reads(
    network: Any, encoding: InputEncoding, keep: str, tmp_path: Path
) -> None:
    model = model_of(network, encoding, keep=keep)
    golden = Golden.of(model, rows_of(encoding, 8))
    export_onnx(model, tmp_path / "model.onnx")
    found = answers(tmp_path / "model.onnx", *encoding.encode(golden.inputs))
    assert np.abs(found - golden.outputs["probability"]).max() <= 1e-5


def test_a_keras_network_is_exported_too(keras_networks: ModuleType, tmp_path: Path) -> None:
    model = model_of(keras_networks.embedded, encoding_of(3, (4, 9)))
    export_onnx(model, tmp_path / "model.onnx")
    columns = rows_of(model.encoding, 37)
    found = answers(tmp_path / "model.onnx", *model.encoding.encode(columns))
    assert np.abs(found - predictions(model, columns)).max() <= 1e-5


def test_the_file_says_what_it_is_and_how_to_encode_and_nobody_is_told_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnx

    model = model_of(BLOCKS, encoding_of(3, (4, 9)), TASKS[1])
    with caplog.at_level(logging.WARNING):
        export_onnx(model, tmp_path / "model.onnx")
    assert not caplog.records
    proto = onnx.load(tmp_path / "model.onnx")
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert said.pop("mlplat.digest") == model.digest
    found = {name: json.loads(value) for name, value in said.items()}
    assert InputEncoding.from_json(found.pop("mlplat.encoding")) == model.encoding
    assert Signature.from_json(found.pop("mlplat.signature")) == model.signature
    assert Task.from_json(found.pop("mlplat.task")) == model.task
    assert found == {}
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == [
        "numeric",
        "codes",
        OUTPUTS["multiclass"],
    ]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input} == {"rows"}


class Rare(Linear):
    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.linear(numeric))


def test_what_cannot_be_exported_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InvalidInput, match=r"there is no \w+\.(special_)?bessel_j0 in ONNX; export another network"):
        export_onnx(model_of(Rare, encoding_of(3)), path)
    with pytest.raises(InvalidInput, match=r"cannot follow line \d+ of .*`if self.*; export another network"):
        export_onnx(model_of(Branching, encoding_of(3), keep="code"), path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_replaced_and_where_no_folder_can_be_is_said(tmp_path: Path) -> None:
    model, path = model_of(BLOCKS, encoding_of(2)), tmp_path / "model.onnx"
    path.write_text("old")
    export_onnx(model, path)
    assert answers(path, *model.encoding.encode(rows_of(model.encoding, 2))).shape == (2,)
    assert [found.name for found in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(InvalidInput, match=r"model\.onnx/inner\.onnx cannot be written"):
        export_onnx(model, path / "inner.onnx")


def test_an_estimator_is_no_network(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    task, encoding = Task(kind="regression"), encoding_of(2)
    kept, weights = Estimator.of(LinearRegression().fit(np.eye(2), [1.0, 2.0]))
    model = Model(network=kept, weights=weights, encoding=encoding, signature=signature_of(encoding, task), task=task)
    with pytest.raises(
        InvalidInput, match=r"an estimator, sklearn\..*LinearRegression, and only networks are exported"
    ):
        export_onnx(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_without_its_libraries_it_names_the_extra(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InvalidInput, match=r"pip install 'mlplat\[onnx\]'"):
        export_onnx(model_of(BLOCKS, encoding_of(2)), tmp_path / "model.onnx")
