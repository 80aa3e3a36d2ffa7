from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mlplat.errors import InvalidInput, Unavailable
from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.serve.log import Counters, Layout, PredictionLog, Record, read_log
from tests.serve.models import SIGNATURE

SCHEMA = pa.schema([("prediction_id", pa.string()), ("received_at", pa.timestamp("us", tz="UTC")), ("x", pa.float64())])
NEVER_S = 3600.0


def record(first: int, rows: int = 1, *, name: str = "late", schema: pa.Schema = SCHEMA, x: Any = 0.5) -> Record:
    lines = [(str(i), i, x) for i in range(first, first + rows)]
    return Record(name=name, schema=schema, lines=lines)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    """Writes only when told to."""
    log = PredictionLog(tmp_path, every_s=NEVER_S, every_rows=10**9, capacity_rows=10)
    yield log
    log.close()


def ids(home: Path, name: str = "late") -> list[str]:
    return list(read_log(home, name)["prediction_id"].to_pylist())


def files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


def test_what_was_appended_is_in_files_after_a_flush(log: PredictionLog, tmp_path: Path) -> None:
    log.append(record(0, 2))
    log.append(record(2))
    assert files(tmp_path) == []
    log.flush()
    assert ids(tmp_path) == ["0", "1", "2"]
    assert log.counters() == Counters(appended=3, written=3, dropped=0, waiting=0)
    assert [path.suffix for path in files(tmp_path)] == [".parquet"]


def test_an_empty_flush_writes_no_file(log: PredictionLog, tmp_path: Path) -> None:
    log.flush()
    assert files(tmp_path) == []


def test_a_name_without_a_log_reads_as_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path, "late").num_rows == 0


def test_names_have_logs_of_their_own(log: PredictionLog, tmp_path: Path) -> None:
    log.append(record(0))
    log.append(record(1, name="other"))
    log.flush()
    assert (ids(tmp_path), ids(tmp_path, "other")) == (["0"], ["1"])


def test_versions_with_other_features_are_read_together(log: PredictionLog, tmp_path: Path) -> None:
    log.append(record(0))
    wider = SCHEMA.append(pa.field("y", pa.string()))
    log.append(replace(record(1), schema=wider, lines=[("1", 1, 0.5, "new")]))
    log.flush()
    assert read_log(tmp_path, "late")["y"].to_pylist() == [None, "new"]


def test_what_does_not_fit_is_dropped_and_counted(log: PredictionLog, tmp_path: Path) -> None:
    log.append(record(0, 8))
    log.append(record(8, 3))
    log.append(record(11, 2))
    assert log.counters() == Counters(appended=13, written=0, dropped=3, waiting=10)
    log.flush()
    assert ids(tmp_path) == [str(i) for i in (*range(8), 11, 12)]


def test_enough_rows_are_written_without_being_asked(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, every_s=NEVER_S, every_rows=5)
    log.append(record(0, 5))
    log.close()
    assert ids(tmp_path) == ["0", "1", "2", "3", "4"]


def test_a_few_rows_are_written_after_the_interval(tmp_path: Path) -> None:
    written = threading.Event()

    class Watched(PredictionLog):
        def _write_file(self, records: Any) -> None:
            super()._write_file(records)
            written.set()

    log = Watched(tmp_path, every_s=0.01, every_rows=10**9)
    log.append(record(0))
    assert written.wait(10)
    log.close()


def test_close_writes_the_rest_and_later_records_are_counted_as_dropped(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, every_s=NEVER_S)
    log.append(record(0))
    log.close()
    log.append(record(1))
    assert ids(tmp_path) == ["0"]
    assert log.counters() == Counters(appended=2, written=1, dropped=1, waiting=0)


def test_a_disk_that_refuses_loses_nothing_and_is_said(log: PredictionLog, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    log.append(record(0))
    log.append(record(1))
    with pytest.raises(Unavailable, match="cannot be written"):
        log.flush()
    assert log.counters().waiting == 2
    (tmp_path / "log").unlink()
    log.append(record(2))
    log.flush()
    assert ids(tmp_path) == ["0", "1", "2"]


def test_a_value_of_the_wrong_type_costs_its_file_and_no_other(
    log: PredictionLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log.append(record(0, x="text"))
    log.append(record(1, name="other"))
    log.flush()
    assert (log.counters().dropped, ids(tmp_path, "other")) == (1, ["1"])
    assert "cannot be logged" in caplog.text


def test_many_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, every_s=0.001, every_rows=7)

    def append(worker: int) -> None:
        for i in range(200):
            log.append(record(worker * 1_000 + i))

    threads = [threading.Thread(target=append, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(map(int, ids(tmp_path))) == [worker * 1_000 + i for worker in range(4) for i in range(200)]


def test_the_schema_names_everything_that_an_answer_came_from() -> None:
    layout = Layout.of(SIGNATURE)
    names = layout.schema.names
    assert names[:16] == [
        "prediction_id",
        "request_id",
        "at",
        "received_at",
        "model",
        "version",
        "digest",
        "arm",
        "propensity",
        "instead",
        "shadow",
        "cached",
        "unit",
        "latency_us",
        "features_us",
        "predict_us",
    ]
    assert names[16:22] == ["origin", "tail", "distance", "seats", "international", "scheduled"]
    assert names[22:] == ["weather.wind", "aircraft.delay", "status.weather", "status.aircraft", "output.probability"]
    assert (layout.features, layout.views) == (("weather.wind", "aircraft.delay"), ("weather", "aircraft"))


def test_a_request_field_named_as_a_column_of_the_log_is_told_apart() -> None:
    signature = replace(SIGNATURE, request=(Field(name="model", dtype="string"),))
    layout = Layout.of(signature)
    assert "request.model" in layout.schema.names
    assert "model" in layout.asked


def test_a_view_that_would_double_a_column_is_refused() -> None:
    view = FeatureRef(
        view="output", version="1", keys=("origin",), fields=(Field(name="probability", dtype="float64"),)
    )
    signature: Signature = replace(SIGNATURE, features=(view,))
    with pytest.raises(InvalidInput, match=r"output\.probability"):
        Layout.of(signature)
