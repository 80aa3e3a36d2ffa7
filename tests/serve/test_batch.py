"""Batch prediction answers as the model does, however the table is cut, and with the features of the online path."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplat import features as F
from mlplat.errors import InvalidInput
from mlplat.features.pieces import FramePiece, pieces_of
from mlplat.features.store import FeatureStore, open_reader
from mlplat.model import artifact
from mlplat.model.architecture import mlp
from mlplat.model.inputs import InputEncoding
from mlplat.model.model import Model
from mlplat.model.signature import Field, Signature
from mlplat.model.task import BINARY
from mlplat.serve import batch as batches
from mlplat.serve.batch import DIGEST, VERSION, Batch, Scorer, Scoring, block_rows
from mlplat.serve.batch_files import Draft
from tests.cli.test_main import variables
from tests.features.support import START_US, after, open_store

sales = F.source("sales", key="shop", time="sold_at")


@F.view(sales)
class lately:
    sold_1h = F.count(window="1h")
    mean_1h = F.mean("price", window="1h")


SIGNATURE = Signature(
    entities=(Field(name="shop", dtype="string"),),
    request=(Field(name="price", dtype="float64", required=True), Field(name="size", dtype="float64")),
    features=(lately.ref,),
    outputs=BINARY.fields(),
)
ASKED = pl.DataFrame(
    {
        "ticket": [f"t{i}" for i in range(120)],
        "shop": [None if i % 13 == 0 else f"shop{i % 6}" for i in range(120)],
        "price": [float(i * 31 % 17) for i in range(120)],
        "size": [None if i % 7 == 0 else i / 9 for i in range(120)],
        "at": [after(18_000 + 29 * i) for i in range(120)],
    }
)


def make_model() -> Model:
    import torch

    from mlplat.model.build import build, read_weights

    names = [field.name for field in SIGNATURE.inputs()]
    values = np.random.default_rng(5).normal(3.0, 5.0, size=(len(names), 50)).round()
    encoding = InputEncoding.fit(pa.table(dict(zip(names, values, strict=True))), SIGNATURE.inputs())
    torch.manual_seed(5)
    weights = read_weights(build(mlp((8,)), encoding))
    return Model(network=mlp((8,)), weights=weights, encoding=encoding, signature=SIGNATURE)


@dataclass
class Rig:
    home: Path
    store: FeatureStore
    model: Model
    batch: Batch

    @property
    def scorer(self) -> Scorer:
        return Scorer(self.batch, self.model)

    def slow(self) -> list[float]:
        """One join of all rows, one call of the model."""
        joined = self.store.join(ASKED, [lately], time="at")
        return list(self.model.predict(joined.to_arrow())["probability"])


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("home")
    store, model = open_store(home), make_model()
    sold = [{"shop": f"shop{i % 5}", "sold_at": after(60 * i), "price": i * 7919 % 97 / 3} for i in range(300)]
    store.ingest(sales, sold)
    store.apply(lately)
    columns = {name: [1.0] for name in model.encoding.names}
    path = artifact.save(model, home / "models" / "odd", golden=artifact.Golden.of(model, columns))
    pins = store.pin(SIGNATURE.features)
    batch = Batch(version=3, digest=model.digest, path=str(path), pins=pins, time="at", now_us=START_US, memory=2**28)
    yield Rig(home=home, store=store, model=model, batch=batch)
    store.close()


@pytest.mark.slow
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, ASKED.height), max_size=6))
def test_any_cut_into_blocks_gives_what_one_call_of_the_model_gives(rig: Rig, cuts: list[int]) -> None:
    ends, scorer = [0, *sorted(cuts), ASKED.height], rig.scorer
    found = pl.concat([scorer.answer(ASKED[a:b], first=a) for a, b in pairwise(ends)])
    assert found.select(ASKED.columns).equals(ASKED)
    assert np.abs(found["probability"].to_numpy() - rig.slow()).max() <= 1e-6
    assert found.columns == [*ASKED.columns, "probability", VERSION, DIGEST]
    assert set(found[VERSION]) == {3}
    assert set(found[DIGEST]) == {rig.model.digest}


def test_the_answers_are_those_of_the_online_path(rig: Rig) -> None:
    """Its reader, row by row, and the model on one row."""
    reader, found = open_reader(rig.home), rig.scorer.answer(ASKED)["probability"]
    try:
        for row, answer in zip(ASKED.iter_rows(named=True), found, strict=True):
            at_us = int(row["at"].timestamp() * 1e6)
            features = reader.read(SIGNATURE.features, {"shop": [row["shop"]]}, [at_us]).columns
            online = rig.model.predict({"price": [row["price"]], "size": [row["size"]], **features})
            assert answer == pytest.approx(online["probability"][0], abs=1e-6)
    finally:
        reader.close()


def test_a_column_that_may_be_left_out_is_null(rig: Rig) -> None:
    without = rig.scorer.answer(ASKED.drop("size"))["probability"]
    assert without.equals(rig.scorer.answer(ASKED.with_columns(size=pl.lit(None)))["probability"])


def test_a_column_of_the_answer_that_is_there_already_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidInput, match="column 'probability' is in the table already"):
        rig.scorer.answer(ASKED.with_columns(probability=0.5))


def test_a_mistake_far_down_is_named_by_its_place_in_the_table(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "block_rows", lambda width, signature: 7)
    price = ASKED["price"].scatter(101, None)
    ASKED.with_columns(price).write_parquet(tmp_path / "bad.parquet", row_group_size=50)
    pieces = pieces_of(tmp_path / "bad.parquet", rows=50, scratch=None)
    assert [piece.rows for piece in pieces] == [50, 50, 20]
    with pytest.raises(InvalidInput, match="field 'price' of row 101 is null"):
        [list(rig.scorer.piece(piece)) for piece in pieces]


def test_a_worker_reads_the_model_itself_and_a_piece_again_is_the_same_file(rig: Rig, tmp_path: Path) -> None:
    work = Scoring(
        rig.batch, [FramePiece(frame=ASKED[:50]), FramePiece(frame=ASKED[50:], first=50)], Draft(at=str(tmp_path))
    )
    assert [work(1), work(0), work(1)] == [70, 50, 70]
    found = pl.read_parquet(tmp_path / "part-*.parquet")
    assert found.equals(rig.scorer.answer(ASKED))


def test_wide_rows_are_answered_fewer_at_a_time() -> None:
    assert block_rows(100, SIGNATURE) == batches.PIECE_ROWS
    assert 10_000 < block_rows(5_000, SIGNATURE) < 14_000
    assert block_rows(10**9, SIGNATURE) == batches.LEAST_ROWS


MEASURED = """
import pickle, resource, sys
from pathlib import Path
from mlplat.features.pieces import pieces_of
from mlplat.serve.batch import PIECE_ROWS, Scoring
from mlplat.serve.batch_files import Draft
folder = Path(sys.argv[1])
batch = pickle.loads((folder / "batch").read_bytes())
peaks = []
for name in ("small", "large"):
    pieces = pieces_of(folder / f"{name}.parquet", rows=PIECE_ROWS, scratch=None)
    work = Scoring(batch, pieces, Draft(at=str(folder)))
    rows = sum(work(number) for number in range(len(pieces)))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
print(rows, peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_a_table_needs_no_more_memory_than_a_few_blocks(rig: Rig, tmp_path: Path) -> None:
    wide = pl.DataFrame({f"x{i}": np.random.default_rng(i).random(120_000) for i in range(60)})
    rows = ASKED.sample(120_000, with_replacement=True, seed=1).hstack(wide)
    rows.head(10).write_parquet(tmp_path / "small.parquet")
    whole = pl.concat([rows] * 10, rechunk=False)
    whole.write_parquet(tmp_path / "large.parquet", compression="uncompressed", row_group_size=60_000)
    (tmp_path / "batch").write_bytes(pickle.dumps(rig.batch))
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=variables())
    answered, grown = map(int, ended.stdout.split())
    assert answered == whole.height
    assert grown < whole.estimated_size() / 2
