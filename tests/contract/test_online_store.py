"""One contract over every online store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mlplat.features.lmdb_store import LmdbStore
from mlplat.features.memory_store import MemoryStore
from mlplat.features.online import OnlineStore
from mlplat.features.redis_store import RedisStore
from mlplat.testing.online_contract import OnlineStoreContract
from tests.redis_server import RedisServer, serving


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Of one node, which has every slot: keys of different slots are as far apart as on several."""
    with serving(tmp_path_factory.mktemp("cluster"), cluster=True) as server:
        yield server


class TestMemory(OnlineStoreContract):
    @pytest.fixture
    def store(self) -> OnlineStore:
        return MemoryStore()


class TestLmdb(OnlineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        store = LmdbStore(tmp_path / "online")
        yield store
        store.close()


@pytest.mark.slow
class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def store(self, redis_server: RedisServer) -> Iterator[OnlineStore]:
        store = RedisStore(redis_server.url, space=uuid4().hex)
        yield store
        store.close()


@pytest.mark.slow
class TestRedisCluster(OnlineStoreContract):
    @pytest.fixture
    def store(self, cluster: RedisServer) -> Iterator[OnlineStore]:
        store = RedisStore(cluster.url, space=uuid4().hex)
        yield store
        store.close()
