"""Shadows: shown what others are asked, in nobody's way, every one of them counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from mlplat.serve.answer import Answerer
from mlplat.serve.log import PredictionLog, read_log
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from mlplat.serve.shadow import Shadows
from tests.serve.models import ROW, FakeModel, FakeReader
from tests.serve.rig import Backing, StoppedClock, at_once, broken, never


def shown(
    folder: Path, act: Callable[[], Awaitable[None]], *, requests: int = 20, share: float = 1.0
) -> tuple[Any, Any]:
    """The counts of a shadow that acts so, and the log."""
    backing = Backing(act, 0.9)

    async def go() -> Any:
        log = PredictionLog(folder)
        answerer = Answerer(
            reader=FakeReader(), log=log, clock=StoppedClock(), new_id=iter(map(str, range(10**6))).__next__
        )
        shadows = Shadows(answerer, StoppedClock(), limit_s=0.05, most=5)
        answerer = replace(answerer, mirror=shadows.offer)
        table = RoutingTable(
            epoch=1,
            salt="late",
            arms=(Arm(name=GOLD, version=1, share=1.0),),
            mirrors=(Arm(name="s", version=2, share=share),),
        )
        served = Served.of("late", table, [Version.of(1, FakeModel()), Version.of(2, FakeModel(), backing)])
        for i in range(requests):
            body = orjson.dumps({"rows": [{**ROW, "tail": f"N{i}"}, {**ROW, "tail": f"M{i}"}]})
            answer = orjson.loads(await answerer.answer(served, body, f"r{i}"))
            assert [p["outputs"]["probability"] for p in answer["predictions"]] == [0.2, 0.2]
            for _ in range(5):  # as a server that waits for its callers
                await asyncio.sleep(0)
        while len(asyncio.all_tasks()) > 1:
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})  # type: ignore[arg-type]
        log.close()
        return shadows.counts.get(("late", "s"))

    return asyncio.run(go()), read_log(folder, "late").to_pylist()


def test_what_a_shadow_would_have_answered_is_in_the_log_and_nowhere_else(tmp_path: Path) -> None:
    async def soon() -> None:
        await asyncio.sleep(0)

    counts, log = shown(tmp_path, soon, requests=3)
    assert (counts.eligible, counts.sent, counts.answered, counts.dropped) == (3, 3, 3, 0)
    shadowed = [row for row in log if row["shadow"]]
    assert len(shadowed) == 6
    assert {row["output.probability"] for row in shadowed} == {0.9}
    assert {(row["arm"], row["version"], row["propensity"]) for row in shadowed} == {("s", 2, 1.0)}
    assert {row["request_id"] for row in shadowed} == {row["request_id"] for row in log if not row["shadow"]}
    assert len({row["prediction_id"] for row in log}) == len(log)


@pytest.mark.parametrize(("act", "said"), [(never, "late"), (broken, "failed"), (at_once, "answered")])
def test_every_request_is_sent_or_dropped_and_what_became_of_it_is_counted(tmp_path: Path, act: Any, said: str) -> None:
    counts, log = shown(tmp_path, act)
    assert counts.eligible == 20 == counts.sent + counts.dropped
    assert getattr(counts, said) == counts.sent == counts.answered + counts.failed + counts.late
    assert (counts.dropped > 0) == (act is never)
    assert len([row for row in log if not row["shadow"]]) == 40


def test_a_share_is_of_the_units_and_the_same_ones_every_time(tmp_path: Path) -> None:
    _, log = shown(tmp_path, at_once, requests=200, share=0.3)
    seen = {row["unit"] for row in log if row["shadow"]}
    assert len(seen) / 400 == pytest.approx(0.3, abs=0.07)
    _, again = shown(tmp_path / "again", at_once, requests=200, share=0.3)
    assert {row["unit"] for row in again if row["shadow"]} == seen
