"""Tables and files at URLs, against an S3 server of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest

from mlplat import features as F
from mlplat.errors import Conflict, InvalidInput, Refused, Unavailable
from mlplat.features.object_store import table_at
from tests.features.s3_stand_in import add, rows, stand_in
from tests.features.support import after, open_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
sales = F.source("sales", key="shop", time="at", id="order")


@pytest.fixture(scope="module")
def variables() -> Iterator[Mapping[str, str]]:
    with stand_in() as found:
        yield found


@pytest.fixture
def s3(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> pafs.S3FileSystem:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return pafs.S3FileSystem(endpoint_override=variables["AWS_ENDPOINT_URL"], region="us-east-1")


def test_a_table_at_a_url_is_written_and_read_once_per_batch(variables: Mapping[str, str]) -> None:
    url = "s3://lake/tables/sales/"
    table = table_at(url, variables=variables)
    assert (table.version(), table.schema()) == (-1, None)
    for _ in range(2):
        assert add(url, rows(1, 2), "batch:a", variables) == 0
    assert add(url, rows(2, 3), "batch:b", variables) == 1
    table.compact()
    assert sorted(table.read(["_id"])["_id"].to_list()) == [1, 2, 3]
    assert table.read(["_id"], after_batch=0)["_id"].to_list() == [3]
    assert table.transaction("batch:b") == 1


def test_a_commit_on_a_version_that_is_not_the_newest_is_a_conflict(variables: Mapping[str, str]) -> None:
    url = "s3://lake/tables/late"
    add(url, rows(1), "a", variables)
    table = table_at(url, variables=variables)
    old = table.now()
    table.append(rows(2), app="b", number=1)
    with pytest.raises(Conflict, match="table 'late': another writer was first"):
        old.commit(ds.dataset(rows(3).to_arrow()).schema, [rows(3)], ids={"c": 1})
    assert sorted(table.read()["_id"].to_list()) == [1, 2]


@pytest.mark.slow
def test_two_processes_write_to_one_table_and_every_row_is_there_once(variables: Mapping[str, str]) -> None:
    url = "s3://lake/tables/both"
    command = [sys.executable, "-m", "tests.features.s3_stand_in", url]
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([*command, str(n), "2"], cwd=ROOT, env=environment) for n in (1, 2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    held = table_at(url, variables=variables).read()
    assert sorted(held["_id"].to_list()) == [0, 1, 77, 1000, 1001, 2000, 2001]
    assert held["_batch"].n_unique() <= 5


class Overwriting(BaseHTTPRequestHandler):
    """An object store that ignores If-None-Match."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.end_headers()

    def do_POST(self) -> None:
        """Several deletions at once."""
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        key = asked.partition(b"<Key>")[2].partition(b"</Key>")[0]
        answer = b"<DeleteResult><Deleted><Key>" + key + b"</Key></Deleted></DeleteResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_store_that_puts_one_file_over_another_is_refused(variables: Mapping[str, str]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Overwriting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        unsafe = {**variables, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        with pytest.raises(
            Refused, match=r"puts a file over one that is there, even when asked not to \(If-None-Match\)"
        ):
            table_at("s3://lake/tables/unsafe", variables=unsafe)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("url", "change", "message"),
    [
        ("ftp://host/t", {}, "the scheme 'ftp' is not one of s3, gs, az, abfss"),
        ("s3://lake/t", {"AWS_SECRET_ACCESS_KEY": ""}, "no credential in the environment. Set AWS_ACCESS_KEY_ID and"),
        ("gs://lake/t", {}, "Set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SERVICE_ACCOUNT"),
    ],
)
def test_a_url_that_cannot_be_a_table_is_refused(
    variables: Mapping[str, str], url: str, change: Mapping[str, str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        table_at(url, variables={**variables, **change})


def test_a_bucket_that_is_not_there_is_told(variables: Mapping[str, str]) -> None:
    with pytest.raises(Unavailable, match=r"table 's3://nowhere/t': the object store did not answer as it should"):
        table_at("s3://nowhere/t", variables=variables)


def test_a_source_is_ingested_from_a_partitioned_folder_at_a_url(s3: pafs.S3FileSystem, tmp_path: Path) -> None:
    frame = pl.DataFrame({"order": [1, 2, 3], "at": [after(1), after(2), after(3)]}).with_columns(
        shop=pl.Series(["a", "b", "a"]), year=pl.Series([2012, 2013, 2013])
    )
    ds.write_dataset(
        frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
        "lake/sales",
        filesystem=s3,
        format="parquet",
        partitioning=["year", "shop"],
        partitioning_flavor="hive",
    )
    with s3.open_output_stream("lake/more/x.csv") as out:
        out.write(b"order,at,shop,year\n4,2013-09-01T00:00:04Z,c,2014\n")
    store = open_store(tmp_path)
    assert store.ingest(sales, "s3://lake/sales/").added == 3
    assert store.ingest(sales, "s3://lake/more/*.csv").added == 1
    held = store._rows.source_table(sales).read().sort("order")
    assert held.select("order", "shop", "year").rows() == [
        (1, "a", 2012),
        (2, "b", 2013),
        (3, "a", 2013),
        (4, "c", 2014),
    ]
    store.close()


def test_a_url_that_cannot_be_read_is_told(s3: pafs.S3FileSystem, tmp_path: Path, monkeypatch: Any) -> None:
    store = open_store(tmp_path)
    with pytest.raises(InvalidInput, match="there is no file or folder 's3://lake/nothing'"):
        store.ingest(sales, "s3://lake/nothing")
    with pytest.raises(InvalidInput, match="'nosuch://lake/x' cannot be read: "):
        store.ingest(sales, "nosuch://lake/x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(
        InvalidInput, match=r"'s3://lake/sales': no credential in the environment. Set AWS_ACCESS_KEY_ID"
    ):
        store.ingest(sales, "s3://lake/sales")
    store.close()
