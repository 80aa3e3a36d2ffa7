"""A cache before models: the answers are those of the models, whatever flips and whoever fails."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.clock import SystemClock
from mlplat.serve.backbone import Columns, Fused, Outputs
from mlplat.serve.cache import Cache
from mlplat.serve.remembered import Remembered, Values

VALUES = st.sampled_from([None, 0, 1, 1.0, True, -0.0, "1", "", "a"])


class Named:
    """Answers with its own name and what it was asked; every third call fails if it is to."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name, self.fails, self.calls = name, fails, 0
        self.rows: list[int] = []

    async def predict(self, columns: Columns, rows: int) -> Outputs:
        self.calls += 1
        self.rows.append(rows)
        await asyncio.sleep(0)
        if self.fails and self.calls % 3 == 0:
            raise OSError("gone")
        pairs = [repr(values) for values in zip(*columns.values(), strict=True)]
        return {"who": [self.name] * rows, "what": pairs}

    async def close(self) -> None: ...


class Here:
    """The same, as a model in this process."""

    def __init__(self, named: Named) -> None:
        self.named = named

    def predict(self, columns: Columns) -> dict[str, Any]:
        named, rows = self.named, len(next(iter(columns.values())))
        named.calls += 1
        named.rows.append(rows)
        if named.fails and named.calls % 3 == 0:
            raise OSError("gone")
        pairs = [repr(values) for values in zip(*columns.values(), strict=True)]
        return {"who": np.array([named.name] * rows), "what": np.array(pairs)}


def remembered(backbone: Named, cache: Cache[Values]) -> Remembered:
    return Remembered(backbone, cache, digest=backbone.name, outputs=["who", "what"])


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6)), max_size=30),
    st.booleans(),
    st.booleans(),
    st.integers(300, 5_000),
)
def test_no_answer_is_another_model_s_or_another_row_s(
    requests: list[tuple[int, list[Any]]], fails: bool, here: bool, room: int
) -> None:
    cache: Cache[Values] = Cache(max_bytes=room, clock=SystemClock())
    models = [Named(name, fails=fails) for name in "abc"]
    backbones = [Fused(Here(model)) if here else model for model in models]  # type: ignore[arg-type]
    known = [
        Remembered(backbone, cache, digest=model.name, outputs=["who", "what"])
        for backbone, model in zip(backbones, models, strict=True)
    ]

    async def one(which: int, rows: list[Any]) -> None:
        columns = {"x": [row[0] for row in rows], "y": [row[1] for row in rows]}
        try:
            outputs, hits = await known[which].predict(columns, len(rows))
        except OSError:
            assert fails
            return
        assert outputs == {"who": [models[which].name] * len(rows), "what": [repr(row) for row in rows]}
        assert len(hits) == len(rows)

    async def all_at_once() -> None:
        await asyncio.gather(*(one(which, rows) for which, rows in requests))

    asyncio.run(all_at_once())


def test_a_row_that_was_answered_is_not_asked_again_and_those_beside_it_are() -> None:
    model = Named("a")
    known = remembered(model, Cache(max_bytes=1 << 20, clock=SystemClock()))

    async def go() -> None:
        assert (await known.predict({"x": [1, 2]}, 2))[1] == [False, False]
        outputs, hits = await known.predict({"x": [2, 3, 1]}, 3)
        assert outputs["what"] == ["(2,)", "(3,)", "(1,)"]
        assert hits == [True, False, True]
        assert model.rows == [2, 1]
        await asyncio.gather(*(known.predict({"x": [9]}, 1) for _ in range(5)))
        assert model.rows == [2, 1, 1]

    asyncio.run(go())


def test_a_row_alone_that_was_answered_here_is_not_asked_again() -> None:
    model = Named("a")
    cache: Cache[Values] = Cache(max_bytes=1 << 20, clock=SystemClock())
    known = Remembered(Fused(Here(model)), cache, digest="a", outputs=["who", "what"])  # type: ignore[arg-type]
    found = [asyncio.run(known.predict({"x": [x]}, 1)) for x in (1, 1, 2)]
    assert [hits for _, hits in found] == [[False], [True], [False]]
    assert [outputs["what"] for outputs, _ in found] == [["(1,)"], ["(1,)"], ["(2,)"]]
    assert model.rows == [1, 1]


def test_an_error_is_not_remembered() -> None:
    model = Named("a", fails=True)
    known = remembered(model, Cache(max_bytes=1 << 20, clock=SystemClock()))

    async def go() -> None:
        for i in range(2):
            await known.predict({"x": [i]}, 1)
        with pytest.raises(OSError, match="gone"):
            await known.predict({"x": [5]}, 1)
        assert (await known.predict({"x": [5]}, 1))[0]["what"] == ["(5,)"]

    asyncio.run(go())
