"""An S3 server on a free port of this machine, and a process that writes to a table in it.

`python -m tests.features.s3_stand_in URL NAME COUNT` appends COUNT batches of one row, one of which every writer has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import polars as pl
import pyarrow.fs as pafs

from mlplat.features.object_store import table_at
from mlplat.features.table_version import TableVersion, arrow_schema
from tests.features.support import after


@contextmanager
def stand_in() -> Iterator[Mapping[str, str]]:
    """The variables that name it; the bucket `lake` is there."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        pafs.S3FileSystem(
            endpoint_override=url,
            access_key="test",
            secret_key="test",
            region="us-east-1",
            allow_bucket_creation=True,
        ).create_dir("lake")
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.stop()


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"at": [after(i) for i in ids], "price": [float(i) for i in ids], "_id": list(ids)})


def add(table_url: str, batch: pl.DataFrame, name: str, variables: Mapping[str, str] | None = None) -> int:
    def fresh(now: TableVersion):  # type: ignore[no-untyped-def]
        new = now.new_rows(batch, ["at", "_id"])
        return (arrow_schema(new), [new]) if new.height else None

    return table_at(table_url, variables=variables).add(fresh, app=name, number=1)


def main(url: str, name: str, count: str) -> None:
    for i in range(int(count)):
        add(url, rows(1000 * int(name) + i, i), f"batch:{name}-{i}")
    add(url, rows(77), "batch:shared")


if __name__ == "__main__":
    main(*sys.argv[1:])
