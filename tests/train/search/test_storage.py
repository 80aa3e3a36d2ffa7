"""The record in a database: the same search, shared by homes, and a server that goes away in the middle."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import mlplat
from mlplat import space
from mlplat.errors import NotFound
from mlplat.train.search import Rungs, Running, Tpe
from mlplat.train.search.storage import SCHEMA
from tests import postgres_server as postgres
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

SPACE = {"x": space.number(0, 1), "y": space.choice("a", "b")}
OPTIONS: dict[str, Any] = {
    "name": "xs",
    "trials": 12,
    "compute": "cpu:0",
    "strategy": Tpe(startup=4),
    "rungs": Rungs(first=1, factor=2),
}


def told(made: Any, trial: Running) -> float:
    for step in range(1, 4):
        trial.report(step, made["x"] + 1 / step)
    return float(made["x"])


def test_a_search_is_the_same_in_a_database_and_homes_that_share_it_have_their_own(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.create(uuid4().hex)
    with mlplat.connect(tmp_path / "journal") as platform:
        here = platform.search(SPACE, told, **OPTIONS)
    with mlplat.connect(tmp_path / "ann", metadata=url) as ann:
        there = ann.search(SPACE, told, **OPTIONS)
        assert [(t.state, t.params, t.steps, t.values) for t in there.trials] == [
            (t.state, t.params, t.steps, t.values) for t in here.trials
        ]
        assert ann.searches()["done"].to_list() == [sum(t.state == "done" for t in here.trials)]
    with mlplat.connect(tmp_path / "ann", metadata=url) as again:
        assert again.search(SPACE, told, **OPTIONS).trials == there.trials
    with mlplat.connect(tmp_path / "bob", metadata=url) as bob, pytest.raises(NotFound, match="no search 'xs'"):
        bob.trials("xs")
    assert SCHEMA not in url


def test_a_server_that_goes_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    with postgres.serving() as server:
        began = threading.Event()

        def back() -> None:
            threading.Event().wait(2.0)
            server.start()
            began.set()

        def cutting(made: Any, trial: Running) -> float:
            if trial.number == 5 and not began.is_set():
                server.kill()
                threading.Thread(target=back).start()
            return told(made, trial)

        with mlplat.connect(tmp_path / "home", metadata=server.create("runs")) as platform:
            found = platform.search(SPACE, cutting, **OPTIONS)
        with mlplat.connect(tmp_path / "calm") as platform:
            calm = platform.search(SPACE, told, **{**OPTIONS, "name": "xs"})
        assert began.is_set()
    assert [(t.state, t.params, t.steps, t.attempts) for t in found.trials] == [
        (t.state, t.params, t.steps, t.attempts) for t in calm.trials
    ]
