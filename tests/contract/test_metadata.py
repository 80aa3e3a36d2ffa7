"""One contract over every metadata store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mlplat.metadata.memory import InMemoryMetadata
from mlplat.metadata.mlflow import MlflowMetadata
from mlplat.metadata.port import Metadata
from mlplat.testing.metadata_contract import MetadataContract
from tests.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, because MLflow takes a second for its tables; each test gets a copy."""
    folder = tmp_path_factory.mktemp("metadata")
    MlflowMetadata(f"sqlite:///{folder}/metadata.db", folder / "artifacts").close()
    return folder / "metadata.db"


class TestInMemory(MetadataContract):
    @pytest.fixture
    def store(self) -> Metadata:
        return InMemoryMetadata()


@pytest.mark.slow
class TestMlflow(MetadataContract):
    @pytest.fixture
    def store(self, empty_database: Path, tmp_path: Path) -> Iterator[Metadata]:
        (tmp_path / "metadata.db").write_bytes(empty_database.read_bytes())
        store = MlflowMetadata(f"sqlite:///{tmp_path}/metadata.db", tmp_path / "artifacts")
        yield store
        store.close()


@pytest.fixture(scope="module")
def template(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made once too, for the same reason."""
    name = uuid4().hex
    MlflowMetadata(postgres_server.create(name), tmp_path_factory.mktemp("metadata")).close()
    return name


@pytest.mark.slow
class TestPostgres(MetadataContract):
    @pytest.fixture
    def store(self, postgres_server: PostgresServer, template: str, tmp_path: Path) -> Iterator[Metadata]:
        store = MlflowMetadata(postgres_server.create(uuid4().hex, like=template), tmp_path / "artifacts")
        yield store
        store.close()
