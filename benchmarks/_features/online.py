"""Online reads of 100 entities x 200 features into a matrix: ours, the raw stores, and Feast's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt
import polars as pl

import mlplat
from benchmarks._features import feast_peer, joins, redis_server
from benchmarks._figures import Figures, Scene
from benchmarks._form import Timed, in_blocks, medians, timed
from mlplat.features import View

ENTITIES, VALUES, READ = 1_000, 200, 100
NAMES = [f"f{j}" for j in range(VALUES)]
Matrix = npt.NDArray[np.float64]


def matrix(users: Sequence[int] | npt.NDArray[np.int64]) -> Matrix:
    """The truth: entity i has `i + j / 1000` as value j."""
    made: Matrix = np.array(users)[:, None] + np.arange(VALUES) / 1000
    return made


class Users:
    """The next hundred entities to ask for: each reader gets the same ones in the same order."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self._sets = [rng.choice(ENTITIES, READ, replace=False).tolist() for _ in range(50)]

    def reading(self, read: Callable[[list[int]], Any]) -> Timed:
        turn = itertools.cycle(self._sets)
        return timed(lambda: read(next(turn)))

    def timing(self, read: Callable[[list[int]], float]) -> Timed:
        """Of a reader that measures itself."""
        turn = itertools.cycle(self._sets)
        return lambda: read(next(turn))

    def wrong(self, read: Callable[[list[int]], Matrix]) -> str:
        right = all(np.array_equal(read(users), matrix(users)) for users in self._sets)
        return "" if right else "a value read is not the one written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    platform: mlplat.Platform
    view: View

    def read(self, users: list[int]) -> Matrix:
        found: Matrix = self.platform.features.online(self.view, {"user": users}).numpy()
        return found


def against_lmdb(scene: Scene) -> Figures:
    with _ours(scene) as ours, lmdb.open(str(scene.folder / "floor"), map_size=1 << 30) as environment:
        with environment.begin(write=True) as write:
            for key, blob in _blobs():
                write.put(key, blob)

        def floor(users: list[int]) -> Matrix:
            with environment.begin() as txn:
                return _decoded([txn.get(_key(user)) for user in users])

        return _compared(scene, ours, floor)


def against_redis(scene: Scene) -> Figures:
    with redis_server.serving(scene) as port, _ours(scene, online=f"redis://127.0.0.1:{port}/0") as ours:
        import redis

        with redis.Redis(port=port, db=1) as client:
            client.mset(dict(_blobs()))
            return _compared(scene, ours, lambda users: _decoded(client.mget([_key(user) for user in users])))


def against_feast_sqlite(scene: Scene) -> Figures:
    with feast_peer.Peer.start(scene) as peer, _ours(scene) as ours:
        return _against_feast(scene, ours, peer)


def against_feast_redis(scene: Scene) -> Figures:
    with redis_server.serving(scene) as port:
        store = {"type": "redis", "connection_string": f"127.0.0.1:{port},db=1"}
        with (
            feast_peer.Peer.start(scene, online=store) as peer,
            _ours(scene, online=f"redis://127.0.0.1:{port}/0") as ours,
        ):
            return _against_feast(scene, ours, peer)


@contextmanager
def _ours(scene: Scene, online: str | None = None) -> Iterator[Ours]:
    view = joins.row_view("wide", NAMES, ttl=None)
    at = datetime(2024, 1, 1, tzinfo=UTC)
    users = np.arange(ENTITIES)
    rows = pl.DataFrame(matrix(users), schema=NAMES).with_columns(user=users, at=pl.lit(at), created=pl.lit(at))
    with mlplat.connect(scene.folder / "home", online=online) as platform:
        platform.features.ingest(view.source, rows)
        platform.features.apply(view)
        yield Ours(platform=platform, view=view)


def _compared(scene: Scene, ours: Ours, floor: Callable[[list[int]], Matrix]) -> Figures:
    users = Users()
    wrong = users.wrong(ours.read) or users.wrong(floor)
    mine, reference = medians(scene.size(3_000, 10), users.reading(ours.read), users.reading(floor))
    return Figures(ours=1e3 * mine, reference=1e3 * reference, wrong=wrong)


def _against_feast(scene: Scene, ours: Ours, peer: feast_peer.Peer) -> Figures:
    peer.ask("online", entities=ENTITIES, values=NAMES)
    users = Users()
    wrong = users.wrong(ours.read)

    def feast(asked: list[int]) -> float:
        return peer.seconds("read", users=asked)

    mine, reference = in_blocks(scene.size(6, 1), scene.size(20, 2), users.reading(ours.read), users.timing(feast))
    alone, after = medians(scene.size(30, 2), users.reading(ours.read), users.timing(feast))
    asked = list(range(READ))
    feast(asked)
    if not peer.ask("right", users=asked, values=NAMES):
        wrong = wrong or "Feast gives other values"
    note = f"one for one, each 0.1 s after the last: {1e3 * alone:.3g} ms / {1e3 * after:.3g} ms = {alone / after:.2g}"
    return Figures(ours=1e3 * mine, reference=1e3 * reference, wrong=wrong, note=note)


def _key(user: int) -> bytes:
    return b"wide/%d" % user


def _blobs() -> list[tuple[bytes, bytes]]:
    return [(_key(user), row.tobytes()) for user, row in enumerate(matrix(range(ENTITIES)))]


def _decoded(blobs: Sequence[Any]) -> Matrix:
    return np.frombuffer(b"".join(blobs), dtype=np.float64).reshape(len(blobs), VALUES)
