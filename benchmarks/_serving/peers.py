"""Other servers with the same network, each in processes of its own: what they are given is all inputs, ready to predict with."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks._figures import PeerAbsent, Scene
from benchmarks._serving.by_hand import INPUTS
from benchmarks._serving.client import ROOT, Target
from mlplat._ray.connect import free_port
from mlplat.model import Model

HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / ".bench"
ROW = "[0.%(number)09d,0.5,-1.5" + ",0.25" * (INPUTS - 3) + "]"
READY_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How it is started and asked. `probability` finds the answer in its JSON. `pins`: a virtual environment of its own has what
    this file beside us names; None: it is in ours."""

    name: str
    command: Callable[[Path, int, Path], Sequence[str | Path]]
    path: str
    body: str
    probability: Callable[[Any], float]
    pins: str | None = None


def _mlflow(python: Path, port: int, module: Path) -> Sequence[str | Path]:
    """With MLflow's own model of the module beside it."""
    import logging

    import mlflow
    import torch

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    folder = module.parent / "mlflow"
    if not folder.exists():
        rows = np.zeros((1, INPUTS), np.float32)
        signature = mlflow.models.infer_signature(rows, np.zeros((1, 1), np.float32))
        network = torch.load(module, weights_only=False)
        mlflow.pytorch.save_model(
            network, folder, signature=signature, pip_requirements=["torch"], serialization_format="pickle"
        )
    flags = ["--env-manager", "local", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    return [python, "-m", "mlflow", "models", "serve", "-m", folder, *flags]


MLFLOW = Peer(
    name="MLflow",
    command=_mlflow,
    path="/invocations",
    body='{"inputs":[' + ROW + "]}",
    probability=lambda answer: float(answer["predictions"][0][0]),
)
LITSERVE = Peer(
    name="LitServe",
    command=lambda python, port, module: [python, HERE / "litserve_worker.py", str(port), module],
    path="/predict",
    body='{"row":' + ROW + "}",
    probability=lambda answer: float(answer["probability"]),
    pins="litserve.txt",
)
BENTOML = Peer(
    name="BentoML",
    command=lambda python, port, module: [
        python,
        "-m",
        "bentoml",
        "serve",
        "bentoml_worker:Late",
        "--working-dir",
        HERE,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ],
    path="/predict",
    body='{"row":' + ROW + "}",
    probability=lambda answer: float(answer["probability"]),
    pins="bentoml.txt",
)
FLOOR = Peer(
    name="uvicorn",
    command=lambda python, port, module: [
        python,
        "-m",
        "uvicorn",
        "benchmarks._serving.floor:app",
        "--port",
        str(port),
        "--log-level",
        "warning",
        "--no-access-log",
    ],
    path="/",
    body='{"row":' + ROW + "}",
    probability=lambda answer: float(answer["probability"]),
)
CHAIN = Peer(
    name="the default chain",
    command=lambda python, port, module: [python, "-m", "benchmarks._serving.chain", str(port), module],
    path="/",
    body='{"row":' + ROW + "}",
    probability=lambda answer: float(answer["probability"]),
)


@contextmanager
def serving(scene: Scene, peer: Peer, module: Path, answer: float) -> Iterator[Target]:
    """Raises `PeerAbsent` where it cannot be had, does not come up, or gives another answer to number 1."""
    python = Path(sys.executable) if peer.pins is None else _environment(scene, peer)
    port = free_port()
    command = peer.command(python, port, module)
    log = scene.folder / f"{peer.name.replace(' ', '_')}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_variables(module), stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        try:
            target = Target(port=port, path=peer.path, body=peer.body)
            found = peer.probability(_first_answer(target, process, peer, log))
            if abs(found - answer) > 1e-5:
                raise PeerAbsent(f"{peer.name} answers {found:g}, and the model {answer:g}")
            yield target
        finally:
            _end(process)


def module_of(model: Model, path: Path) -> float:
    """Save the model's network as torch's layers alone, its scaling in the first of them; its answer to number 1 of `ROW`."""
    import torch
    from torch import nn

    from mlplat.model.build import build, load_weights

    network = load_weights(build(model.network, model.encoding), model.weights)  # type: ignore[arg-type]
    names = [*(f.name for f in model.signature.request), *(c for r in model.signature.features for c in r.columns())]
    # Encoding is affine where nothing is null: its matrix from its values at zero and at each unit vector.
    basis = np.vstack([np.zeros(INPUTS), np.eye(INPUTS)])
    encoded, _ = model.encoding.encode({name: basis[:, i].tolist() for i, name in enumerate(names)})
    shift, matrix = torch.from_numpy(encoded[0]), torch.from_numpy(encoded[1:] - encoded[0])
    first, *others = network.body
    scaled = nn.Linear(INPUTS, first.out_features)
    with torch.no_grad():
        scaled.weight.copy_(first.weight @ matrix.T)
        scaled.bias.copy_(first.bias + first.weight @ shift)
    torch.save(nn.Sequential(scaled, *others, network.head, nn.Sigmoid()).eval(), path)
    row = dict(zip(names, [1e-9, 0.5, -1.5, *[0.25] * (INPUTS - 3)], strict=True))
    return float(model.predict({name: [value] for name, value in row.items()})["probability"][0])


def _variables(module: Path) -> Mapping[str, str]:
    """Those of this process without Ray's, which would make the default cluster one of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = {"MODEL": str(module), "PYTHONPATH": str(ROOT), "BENTOML_DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    told["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    return {**kept, **told, "BENTOML_HOME": str(module.parent / "bentoml"), "PYTHONWARNINGS": "ignore"}


def _first_answer(target: Target, process: subprocess.Popen[bytes], peer: Peer, log: Path) -> Any:
    body = target.body % {"number": 1, "entity": 1}
    deadline_s = perf_counter() + READY_S
    while process.poll() is None and perf_counter() < deadline_s:
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{target.port}{target.path}",
                content=body,
                headers={"content-type": "application/json"},
                trust_env=False,
            )
        except httpx.HTTPError:
            sleep(0.1)
            continue
        if answer.status_code == 200:
            return answer.json()
        if answer.status_code < 500 and answer.status_code != 404:
            raise PeerAbsent(f"{peer.name} answers {answer.status_code}: {answer.text[:300]}")
        sleep(0.1)
    raise PeerAbsent(f"{peer.name} does not come up: {log.read_text()[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and all that it started."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=0.5 if "chain" not in str(process.args) else 30.0)
    except subprocess.TimeoutExpired:
        process.terminate()
    _, alive = psutil.wait_procs([*children, psutil.Process(process.pid)] if process.poll() is None else children, 5.0)
    for child in alive:
        child.kill()
    process.wait()


def _environment(scene: Scene, peer: Peer) -> Path:
    """Its Python, made when it is not there or another version is wanted. Torch and numpy come from our environment."""
    if scene.quick:
        raise PeerAbsent("--quick builds no peer")
    assert peer.pins is not None
    folder, pins = ENVIRONMENTS / peer.name.lower(), HERE / peer.pins
    python, mark = folder / "bin" / "python", folder / "pins.txt"
    if mark.exists() and mark.read_text() == pins.read_text():
        return python
    scene.say(f"installing {peer.name} into an environment of its own ...")
    for command in (
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", pins],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerAbsent(f"{peer.name} could not be installed: {done.stderr[-500:]}")
    (site,) = folder.glob("lib/python*/site-packages")
    ours = Path(str(importlib.metadata.distribution("torch").locate_file("")))
    (site / "torch.pth").write_text(f"{ours}\n")  # behind its own packages, which come first
    mark.write_text(pins.read_text())
    return python
