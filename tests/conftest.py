"""What all tests share: one local Ray cluster for those that need Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from mlplat._ray.session import Session
from mlplat.config import environment
from tests import postgres_server as postgres
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer, serving

# The same examples at every run, and no stop-watch: a machine may be slow.
settings.register_profile("mlplat", derandomize=True, deadline=None)
settings.load_profile("mlplat")

# The tests train on `cpu:2`, and actors of a feature pool want cores beside it while an endpoint (which asks for none
# on a cluster of our own) answers: with 4 logical cores all start at once. They are logical: any machine will do.
LOGICAL = {"FPGA": 2.0}
CPUS = 4


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make check` does not even load a module of which it runs nothing: what that imports takes seconds."""
    if config.option.markexpr != "not ray and not slow" or collection_path.suffix != ".py":
        return None
    return "\npytestmark = pytest.mark.slow" in collection_path.read_text() or None


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The cluster that all tests marked `ray` share. Each test has a home of its own, and undeploys what it serves."""
    with Session.start(
        None, home=tmp_path_factory.mktemp("ray_home"), env=environment({}), cpus=CPUS, resources=LOGICAL
    ) as session:
        yield session


@pytest.fixture(scope="session")
def keras_networks() -> Iterator[ModuleType]:
    """`tests.model.keras_networks`, with Keras on torch. Three seconds that the other tests need not wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        from tests.model import keras_networks

        yield keras_networks


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that tests share; each home has a part of its own in it. Nobody may kill it."""
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that tests share; each makes a database of its own in it. Nobody may kill it."""
    with postgres.serving() as server:
        yield server
