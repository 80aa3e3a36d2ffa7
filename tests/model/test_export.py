"""Modules of a user's own, exported: they answer the same without their code, or say why they cannot be."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlplat.errors import InvalidInput, Refused, UserCodeError
from mlplat.model import BINARY, Exported, Model, Shape, Task
from mlplat.model.artifact import Golden, load, save
from mlplat.model.build import read_weights
from mlplat.model.export import export, record
from tests.model import networks
from tests.model.networks import Attending, Branching, Gated
from tests.model.support import encoding_of, rows_of, signature_of

pytestmark = pytest.mark.slow  # torch.export takes seconds when it starts


def model_of(network: Any, task: Task, *, numbers: int = 3, slots: tuple[int, ...] = (4, 9)) -> tuple[Model, nn.Module]:
    encoding = encoding_of(numbers, slots)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = network(Shape.of(encoding, task.outputs))
    model = Model(
        network=export(module, encoding),
        weights=read_weights(module),
        encoding=encoding,
        signature=signature_of(encoding, task),
        task=task,
    )
    return model, module


@pytest.mark.parametrize(
    ("network", "numbers", "slots"),
    [
        (Gated, 3, (4, 9)),
        (partial(Gated, width=3), 0, (5,)),
        (Gated, 2, ()),
        (Attending, 3, (4,)),
        (networks.Linear, 2, (3,)),
    ],
)
@pytest.mark.parametrize("task", [BINARY, Task(kind="multiclass", classes=("a", "b", "c"))], ids=lambda task: task.kind)
def test_an_exported_model_answers_as_its_module(
    network: Any, numbers: int, slots: tuple[int, ...], task: Task
) -> None:
    model, module = model_of(network, task, numbers=numbers, slots=slots)
    assert module.training
    columns = rows_of(model.encoding, 40)
    numeric, codes = (torch.from_numpy(part) for part in model.encoding.encode(columns))
    with torch.inference_mode():
        wanted = task.answers(task.predictions(module.eval()(numeric, codes).double().numpy()))
    found = model.predict(columns)
    assert found.keys() == wanted.keys()
    for name in found.keys() - {"class"}:
        assert np.abs(found[name] - wanted[name]).max() <= 1e-6
        alone = [model.predict({n: [v[i]] for n, v in columns.items()})[name][0] for i in range(5)]
        assert np.abs(alone - found[name][:5]).max() <= 1e-6
    assert all(len(values) == 0 for values in model.predict({name: [] for name in columns}).values())


def test_the_same_module_has_the_same_digest() -> None:
    assert model_of(Gated, BINARY)[0].digest == model_of(Gated, BINARY)[0].digest
    assert model_of(Gated, BINARY)[0].digest != model_of(partial(Gated, width=9), BINARY)[0].digest


def test_it_is_saved_and_loads_and_its_weights_are_the_modules_own(tmp_path: Path) -> None:
    model, module = model_of(Gated, BINARY)
    found = load(save(model, tmp_path, golden=Golden.of(model, rows_of(model.encoding, 6)))).model
    assert found == model
    assert isinstance(found.network, Exported)
    assert found.network.module == "tests.model.networks.Gated"
    again = Gated(Shape.of(model.encoding, 1))
    again.load_state_dict(
        {name: torch.from_numpy(np.array(value)) for name, value in found.weights.items()}, strict=True
    )
    assert {n: v.tolist() for n, v in again.state_dict().items()} == {
        n: v.tolist() for n, v in module.state_dict().items()
    }


def test_threads_share_one(tmp_path: Path) -> None:
    model, _ = model_of(Attending, BINARY)
    columns = rows_of(model.encoding, 50)
    wanted = model.predict(columns)["probability"].tolist()
    answers: list[Any] = []

    def ask() -> None:
        answers.extend(model.predict(columns)["probability"].tolist() == wanted for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 80


@pytest.mark.parametrize(
    ("network", "error", "says"),
    [
        (
            "Branching",
            InvalidInput,
            r"cannot follow line \d+ of .*networks.py, `if self.linear.bias.sum\(\) > 1e6:.*or keep its code",
        ),
        ("Counting", InvalidInput, "the forward changes 'seen': a model must not change"),
        (
            "OnlyFive",
            UserCodeError,
            r"cannot answer 1 rows line \d+ of .*networks.py, `return self.linear\(numeric.reshape",
        ),
        ("ByCount", InvalidInput, "forward of .*ByCount: what it does depends on the number of rows"),
        ("AloneOtherwise", InvalidInput, "answers 1 rows otherwise than its module does"),
        ("Centred", InvalidInput, "depends on the rows beside it"),
        ("Noisy", InvalidInput, "without random numbers"),
        ("Flat", InvalidInput, r"gives the shape \(5,\) for 5 rows: return \[n, outputs\]"),
        (
            "Failing",
            UserCodeError,
            r"cannot answer 5 rows line \d+ of .*networks.py, `return self.linear\(numeric\[:, 1:\]\)`",
        ),
    ],
)
def test_what_cannot_be_exported_says_where_and_what_to_do(network: str, error: type[Exception], says: str) -> None:
    encoding = encoding_of(3)
    module = getattr(networks, network)(Shape.of(encoding, 1))
    with pytest.raises(error, match=says):
        export(module, encoding)


ELSEWHERE = """
import json, sys
from pathlib import Path
from mlplat.model.artifact import load
found = load(Path(sys.argv[1]), trusted=sys.argv[2] == "trusted")
assert found.golden.difference(found.model) == 0.0
assert not any(name.startswith("tests") for name in sys.modules)
unneeded = {"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)
print(json.dumps(sorted(unneeded)))
"""


def elsewhere(path: Path, trusted: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process that cannot import this test's modules."""
    root = Path(__file__).parents[2]
    (folder / "mlplat").symlink_to(root / "mlplat")
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(path), trusted],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_export_loads_without_the_training_code(tmp_path: Path) -> None:
    model, _ = model_of(Attending, BINARY)
    path = save(model, tmp_path / "models", golden=Golden.of(model, rows_of(model.encoding, 6)))
    done = elsewhere(path, "strange", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"  # torch's compiler takes longer to import than torch


def test_recorded_code_loads_without_the_training_code_if_it_is_trusted(tmp_path: Path) -> None:
    encoding = encoding_of(3)
    module = Branching(Shape.of(encoding, 1))
    model = Model(
        network=record(Branching, module, encoding),
        weights=read_weights(module),
        encoding=encoding,
        signature=signature_of(encoding, BINARY),
    )
    path = save(model, tmp_path / "models", golden=Golden.of(model, rows_of(encoding, 6)))
    done = elsewhere(path, "trusted", tmp_path)
    assert done.returncode == 0, done.stderr
    with pytest.raises(Refused, match=r"code that runs when it answers.*trusted=True"):
        load(path)
