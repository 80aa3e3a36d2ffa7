"""Spark lends Ray a part of its executors, and mlplat reads Spark's table and trains there.

`python -m examples.spark_cluster [--home DIR] [--master 'local[4]']`. Needs `pip install 'mlplat[spark]'` and Java 17. With
`local[4]` Spark is this machine, and its four slots are logical; with `yarn` or `spark://...` the home is a folder that all see.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from pyspark.sql import SparkSession

import mlplat
from mlplat import features as F
from mlplat.model import mlp
from mlplat.train import TrainSettings

STORE_BYTES = 200_000_000
"""Of Ray's object store on each node: by default it is a third of the memory."""


def start_spark(master: str) -> SparkSession:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the executors need this Python, with Ray and mlplat
    # Ray on Spark starts the `ray` that it finds on the path, and fails without a word of it where there is none.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Ray 2.60 wants a token: the driver, its head and its nodes on the executors must have the same.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    token = os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    here = {} if not master.startswith("local") else {"spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
    settings = {"spark.task.cpus": "2", "spark.sql.session.timeZone": "Europe/Paris", **here}
    settings |= {"spark.executorEnv.RAY_AUTH_MODE": "token", "spark.executorEnv.RAY_AUTH_TOKEN": token}
    return SparkSession.builder.master(master).config(map=settings).getOrCreate()


def orders(spark: SparkSession) -> None:
    """What a company has: a table, here of 2,000 orders, one a minute."""
    spark.range(2_000).selectExpr(
        "concat('c', id % 5) as customer",
        "timestampadd(MINUTE, cast(id as int), timestamp'2026-01-01 00:00:00Z') as ordered_at",
        "cast(id * 7919 % 101 / 100 as double) as price",
        "cast(id * 7919 % 101 > id * 7907 % 97 as int) as returned",
    ).createOrReplaceTempView("orders")


def main(home: Path, master: str) -> None:
    spark = start_spark(master)
    orders(spark)
    from ray.util.spark import setup_ray_cluster, shutdown_ray_cluster  # Ray reads at import whether there are tokens

    # One node of two cores; Spark keeps the other slots, for what mlplat asks of it below.
    address, _ = setup_ray_cluster(
        max_worker_nodes=1,
        object_store_memory_worker_node=STORE_BYTES,
        object_store_memory_head_node=STORE_BYTES,
        head_node_options={"include_dashboard": False},
    )
    try:
        with mlplat.connect(home, ray=address) as platform:
            train(platform, spark)
    finally:
        shutdown_ray_cluster()
        spark.stop()


def train(platform: mlplat.Platform, spark: SparkSession) -> None:
    source = F.source("orders", key="customer", time="ordered_at")
    done = platform.features.ingest(source, spark.table("orders"))
    print(f"{done.added} orders came from Spark")
    labels = spark.table("orders")
    data = platform.features.training_set(
        "returned", labels, [], label="returned", time="ordered_at", request=["price"]
    )
    settings = TrainSettings(epochs=2, batch_size=128, learning_rate=1e-2, holdout_s=8 * 3600)
    model = platform.train(mlp((8,)), data, settings=settings, compute="cpu:1")
    print(f"trained version {model.version.version} on Spark's executors: {model.metrics}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--master", default="local[4]")
    given = parser.parse_args()
    main(given.home or Path(tempfile.mkdtemp(prefix="spark-")), given.master)
