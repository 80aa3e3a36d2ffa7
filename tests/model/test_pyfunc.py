"""Through MLflow: an artifact is a pyfunc, by its folder and by its registered name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import mlplat
from mlplat.errors import Refused
from mlplat.model import _load_pyfunc, mlp
from mlplat.model.artifact import load
from mlplat.testing.learnable import learnable
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.train.estimators import Rates

pytestmark = pytest.mark.slow

SETTINGS = TrainSettings(batch_size=128, epochs=2, holdout_s=48 * 86_400)

SCRIPT = """
import sys, warnings
import mlflow, pandas as pd
url, uri, rows, out = sys.argv[1:]
mlflow.set_tracking_uri(url)
model = mlflow.pyfunc.load_model(uri)
model.predict(pd.read_parquet(rows)).to_parquet(out)
print(",".join(c.name for c in model.metadata.get_input_schema()))
"""


def test_mlflow_loads_what_it_has_registered_and_answers_the_same(tmp_path: Path) -> None:
    data = learnable(tmp_path / "data")
    rows, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    with mlplat.connect(tmp_path / "home") as platform:
        trained = platform.train(mlp((8,)), data, settings=SETTINGS, progress=Silent())
        names = [field.name for field in trained.model.signature.inputs()]
        frame = data.table().select(names)[:50].to_pandas()
        frame.to_parquet(rows)
        for uri in ("models:/late/1", str(Path(trained.version.path))):
            call = [sys.executable, "-W", "ignore", "-c", SCRIPT, platform.metadata_url, uri, str(rows), str(out)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            assert done.stdout.split()[-1].split(",") == names
            found = pd.read_parquet(out)["probability"].to_numpy()
            assert found == pytest.approx(trained.model.predict(data.table()[:50])["probability"], abs=1e-6)


def test_code_is_run_for_those_alone_who_say_so(tmp_path: Path) -> None:
    data = learnable(tmp_path / "data", rows=1_000)
    with mlplat.connect(tmp_path / "home") as platform:
        own = platform.train(Rates(), data, settings=SETTINGS, progress=Silent())
    with pytest.raises(Refused, match="trusted=True"):
        _load_pyfunc(own.version.path)
    loaded = _load_pyfunc(own.version.path, {"trusted": True})
    frame = data.table()[:5].to_pandas()
    assert list(loaded.predict(frame)["probability"]) == list(own.model.predict(data.table()[:5])["probability"])


def test_an_artifact_carries_what_its_rows_were_like_and_how_it_is_asked(tmp_path: Path) -> None:
    data = learnable(tmp_path / "data")
    with mlplat.connect(tmp_path / "home") as platform:
        trained = platform.train(mlp((8,)), data, settings=SETTINGS, progress=Silent())
    found = load(Path(trained.version.path))
    assert found.reference is not None
    inputs, outputs = found.reference.inputs, found.reference.outputs
    assert list(inputs.columns) == [field.name for field in trained.model.signature.inputs()]
    assert 0.05 < inputs.columns["v.x2"].null_rate < 0.15
    assert inputs.columns["flag"].mean == pytest.approx(0.3, abs=0.03)
    assert {item.value for item in inputs.columns["c0"].top(9)} == {"k0", "k1", "k2"}
    assert inputs.rows + outputs.rows == data.rows
    answers = trained.model.predict(data.table()[inputs.rows :])["probability"]  # they are in the order of time
    assert outputs.columns["probability"].mean == pytest.approx(answers.mean())
    assert len(found.requests) == 8
    assert all(request.keys() == {"place", "c0", "c1", "flag"} for request in found.requests)
