"""The actor pools make the rows that one process would make, bit for bit; errors name the row, hangs end, and actors that
are killed are replaced."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from mlplat import features as F
from mlplat.errors import Unavailable, UserCodeError
from mlplat.features._ray.pool import RayPool
from mlplat.features.chunks import ChunkReader, Pending, Place
from mlplat.features.definitions import View
from mlplat.features.maker import Maker
from mlplat.features.tables import EventTable
from tests.features.support import after

pytestmark = pytest.mark.ray

source = F.source("sales", key="shop", time="at")
PATIENCE_S = 60.0


def rows(count: int, folder: Path | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "shop": [f"s{i % 7}" for i in range(count)],
            "at": [after(i) for i in range(count)],
            "price": [None if i % 5 == 0 else i / 3 for i in range(count)],
            "folder": [str(folder)] * count,
            "_id": range(count),
        }
    )


def until(holds: Callable[[], Any]) -> Any:
    """Look again and again; what is waited for is what another process does."""
    turn = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if found := holds():
            return found
        turn.wait(0.02)
    raise AssertionError(f"{holds} did not come true within {PATIENCE_S} s")


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def checked_in(folder: Path) -> set[int]:
    return {int(file.name) for file in folder.glob("[0-9]*")}


def check_in(rows: pl.DataFrame) -> Path:
    """Say which process has the rows."""
    folder = Path(rows["folder"][0])
    (folder / str(os.getpid())).touch()
    return folder


@F.view(source, actors=(2, 2))
class made:
    third: float
    word: str
    object: int

    def __init__(self) -> None:
        import uuid

        self.number = uuid.uuid4().int % 2**62

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(third=pl.col("price") / 3, word=pl.col("shop") + "é", object=pl.lit(self.number))


@F.view(source)
class failing:
    x: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if rows["at"].max() >= after(7):
            raise ValueError("no such sale")
        return rows.select(x="price")


@F.view(source)
class unmakeable:
    x: float

    def __init__(self) -> None:
        raise ValueError("no weights")

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows


@F.view(source, actors=(2, 2))
class gated:
    """Waits for the file `go` in the rows' folder."""

    x: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        folder = check_in(rows)
        turn = threading.Event()
        while not (folder / "go").exists():
            turn.wait(0.02)
        return rows.select(x="price")


@F.view(source, timeout="1s")
class hanging:
    x: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        check_in(rows)
        threading.Event().wait()
        return rows


@F.view(source)
class deadly:
    x: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        os.kill(os.getpid(), signal.SIGKILL)
        return rows


@F.view(source, actors=(1, 2), online="actors")
class lasting:
    third: float
    pid: int

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        if rows["shop"][0] == "bad":
            raise ValueError("no such shop")
        if rows["shop"][0] == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return rows.select(third=pl.col("price") / 3, pid=pl.lit(os.getpid()))


@pytest.fixture
def pool(ray_cluster: Any, tmp_path: Path) -> Iterator[RayPool]:
    made = RayPool(lambda: None, scope=tmp_path.name)
    yield made
    made.close()


def chunked(folder: Path, count: int, size: int) -> ChunkReader:
    table = EventTable(folder / "table")
    table.append(rows(count, folder), app="test", number=1)
    chunks = Pending.of(table, "at", since=Place(), upto=9).chunks(size)
    return ChunkReader(table=table, time="at", chunks=tuple(chunks))


def on_pool(pool: RayPool, view: View, reader: ChunkReader) -> list[pl.DataFrame]:
    return list(pool.batch(view, reader, stopped=lambda: False))


def test_the_pool_makes_what_one_process_makes_chunk_by_chunk_with_one_object_per_actor(
    pool: RayPool, tmp_path: Path
) -> None:
    reader = chunked(tmp_path, 20_011, 1_000)
    found = on_pool(pool, made, reader)
    inline = Maker(made)
    for at, chunk in enumerate(found):
        wanted = inline.make(reader.read(at))
        assert chunk.schema == wanted.schema
        assert chunk.drop("object").equals(wanted.drop("object"))
    assert len(found) == len(reader.chunks)
    assert pl.concat(found)["object"].n_unique() == 2


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (failing, r"view 'failing': __call__ raised ValueError: no such sale at .*test_pool.py:\d+.*'price': 2.333"),
        (unmakeable, r"view 'unmakeable': __init__ raised ValueError: no weights at .*test_pool.py:\d+"),
    ],
)
def test_an_error_of_the_users_code_comes_out_with_its_row(
    pool: RayPool, tmp_path: Path, view: View, message: str
) -> None:
    with pytest.raises(UserCodeError, match=f"(?s){message}"):
        on_pool(pool, view, chunked(tmp_path, 1_000, 300))


def test_a_call_that_hangs_is_an_error_and_its_actor_ends(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(
        UserCodeError, match=r"view 'hanging': __call__ took longer than 1 s on 200 rows, the first being"
    ):
        on_pool(pool, hanging, chunked(tmp_path, 200, 300))
    pids = checked_in(tmp_path)
    until(lambda: pids and all(map(gone, pids)))


def test_an_actor_that_is_killed_is_replaced_and_its_rows_are_made(pool: RayPool, tmp_path: Path) -> None:
    reader = chunked(tmp_path, 4_000, 250)
    found: list[pl.DataFrame] = []
    work = threading.Thread(target=lambda: found.extend(on_pool(pool, gated, reader)))
    work.start()
    pid = min(until(lambda: checked_in(tmp_path)))
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid) and checked_in(tmp_path) - {pid})
    (tmp_path / "go").touch()
    work.join(PATIENCE_S)
    assert pl.concat(found)["_id"].sort().to_list() == list(range(4_000))


def test_actors_that_die_again_and_again_are_an_error(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(
        Unavailable, match=r"view 'deadly': an actor of its pool died, and died again, on 40 rows .*'s0'"
    ):
        on_pool(pool, deadly, chunked(tmp_path, 40, 300))


def test_a_stop_ends_the_actors(pool: RayPool, tmp_path: Path) -> None:
    reader = chunked(tmp_path, 500, 100)
    assert list(pool.batch(gated, reader, stopped=lambda: bool(checked_in(tmp_path)))) == []
    pids = checked_in(tmp_path)
    until(lambda: pids and all(map(gone, pids)))


def test_pushed_events_go_to_actors_that_stay_and_are_found_by_name(pool: RayPool, tmp_path: Path) -> None:
    given = rows(3)
    first = pool.online(lasting, given)
    assert first["third"].equals(Maker(lasting).make(given)["third"])
    pid = first["pid"][0]
    assert pid != os.getpid()
    assert pool.online(lasting, given)["pid"][0] == pid
    other = RayPool(lambda: None, scope=tmp_path.name)
    assert other.online(lasting, given)["pid"][0] == pid
    with pytest.raises(
        UserCodeError, match=r"(?s)'lasting': __call__ raised ValueError: no such shop at .*py:\d+.*'bad'"
    ):
        pool.online(lasting, given.with_columns(shop=pl.lit("bad")))
    os.kill(pid, signal.SIGKILL)
    assert pool.online(lasting, given)["pid"][0] != pid
    assert other.online(lasting, given)["third"].equals(first["third"])
    with pytest.raises(Unavailable, match="view 'lasting': its actor died 3 times on 3 rows"):
        pool.online(lasting, given.with_columns(shop=pl.lit("deadly")))
    assert pool.online(lasting, given)["third"].equals(first["third"])


def test_a_push_that_hangs_is_an_error_and_its_actor_ends(pool: RayPool, tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=r"view 'hanging': __call__ took longer than 1 s on 2 rows"):
        pool.online(hanging, rows(2, tmp_path))
    pids = checked_in(tmp_path)
    until(lambda: pids and all(map(gone, pids)))
