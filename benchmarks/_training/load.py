"""From a fresh process to the first answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

import mlplat
from benchmarks._figures import Figures, Scene
from benchmarks._form import medians
from benchmarks._training.made import HELD_OUT_ROWS, training_set
from benchmarks._training.network import Flights
from benchmarks._training.steps import FLIGHTS, ROOT
from mlplat.model.shape import Shape
from mlplat.train import TrainedModel, TrainSettings
from mlplat.train.progress import Silent

NUMBERS = 30
OURS = """
import sys
from pathlib import Path
from mlplat.model.artifact import load
model = load(Path(sys.argv[1])).model
print(model.predict({name: [0.5] for name in model.encoding.names})["probability"][0])
"""
PLAIN = """
import sys
import torch
from benchmarks._training.network import Flights
module = Flights(int(sys.argv[2]))
module.load_state_dict(torch.load(sys.argv[1], weights_only=True))
module.eval()
with torch.inference_mode():
    print(torch.sigmoid(module(torch.full((1, int(sys.argv[2])), 0.5), torch.zeros(1, 0, dtype=torch.int64)))[0, 0].item())
"""


def spec(scene: Scene) -> Figures:
    """A network in the vocabulary."""
    return _against_torch(scene, FLIGHTS)


def exported(scene: Scene) -> Figures:
    """The same network as a module of the user's own, kept as a program."""
    return _against_torch(scene, _flights)


def _flights(shape: Shape) -> torch.nn.Module:
    return Flights(shape.numbers)


def _against_torch(scene: Scene, network: object) -> Figures:
    data = training_set(scene.folder / "data", rows=20_000, numbers=NUMBERS)
    settings = TrainSettings(epochs=1, holdout_s=HELD_OUT_ROWS)
    with mlplat.connect(scene.folder / "home") as platform:
        trained = platform.train(network, data, settings=settings, progress=Silent())  # type: ignore[arg-type]
    weights = scene.folder / "plain.pt"
    torch.save(_module(trained).state_dict(), weights)
    mine, reference = medians(
        scene.size(9, 1),
        _seconds(OURS, str(Path(trained.version.path).resolve())),
        _seconds(PLAIN, str(weights), NUMBERS),
    )
    return Figures(ours=mine, reference=reference)


def _module(trained: TrainedModel) -> torch.nn.Module:
    """The same weights under the names that the module by hand has."""
    model, module = trained.model, Flights(NUMBERS)
    values = [torch.from_numpy(value.copy()) for value in model.weights.values()]
    names = sorted(module.state_dict())
    assert [tuple(v.shape) for v in values] == [tuple(module.state_dict()[name].shape) for name in names]
    module.load_state_dict(dict(zip(names, values, strict=True)))
    return module


def _seconds(script: str, *arguments: object) -> Callable[[], float]:
    def once() -> float:
        began = perf_counter()
        subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True)
        return perf_counter() - began

    return once
