"""One contract over every metadata store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplat.metadata.memory import InMemoryMetadata
from mlplat.metadata.mlflow import MlflowMetadata
from mlplat.metadata.port import Metadata
from mlplat.testing.metadata_contract import MetadataContract


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


@pytest.mark.process
class TestMlflow(MetadataContract):
    @pytest.fixture
    def store(self, empty_database: Path, tmp_path: Path) -> Iterator[Metadata]:
        (tmp_path / "metadata.db").write_bytes(empty_database.read_bytes())
        store = MlflowMetadata(f"sqlite:///{tmp_path}/metadata.db", tmp_path / "artifacts")
        yield store
        store.close()
