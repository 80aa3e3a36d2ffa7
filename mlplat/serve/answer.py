"""From the bytes of a request to the bytes of its answer: parse, assign arms, read features, predict, log. What it waits for
is backbones alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mlplat.clock import Clock
from mlplat.errors import Unavailable
from mlplat.features.online import FeatureReader, OnlineRows
from mlplat.serve.backbone import Outputs
from mlplat.serve.dispatch import Ask, Count, Dispatch, Fail, Failure, Mirror
from mlplat.serve.log import PredictionLog, Record, asked_column
from mlplat.serve.request import Asked, Request
from mlplat.serve.served import Served, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of a request that one version answered."""

    ask: Ask
    version: Version
    request: Request
    features: OnlineRows
    outputs: Outputs
    cached: Sequence[bool] | None
    features_us: int
    predict_us: int


class NeededField(Exception):
    """A version needs a request field that gold does not, and the caller left it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """Answers requests. An unknown entity is no error: its features are null and their status says "missing". `count` is told
    what counts against an arm, `mirror` what shadows are shown, `told` what was logged of a request that is answered: none of
    them may wait."""

    reader: FeatureReader
    log: PredictionLog
    clock: Clock
    new_id: Callable[[], str]
    count: Callable[[str, Count], None] = lambda name, count: None
    told: Callable[[Sequence[Record]], None] = lambda records: None
    mirror: Callable[[Served, Mirror, Request, str, Sequence[str]], None] = lambda *shown: None

    async def answer(self, served: Served, body: bytes | Asked, request_id: str) -> bytes:
        """The JSON of the answer. Raises `HttpError` for a request that cannot be answered as it is."""
        started_s, received_us = self.clock.elapsed_s(), self.clock.now_us()
        request = served.parser.parse(body, now_us=received_us)
        units = _units(served, request, request_id)
        parts = await self._parts(served, request, units, request_id)
        own_id = self.new_id()
        ids = [f"{own_id}-{i}" for i in range(request.rows)]
        answer = _render(served.name, request_id, ids, parts)
        latency_us = int((self.clock.elapsed_s() - started_s) * 1e6)
        records = [record_of(served.name, request_id, ids, units, part, received_us, latency_us) for part in parts]
        for record in records:
            self.log.append(record)
        self.told(records)
        return answer

    async def part(self, version: Version, ask: Ask, request: Request) -> Part:
        """The rows of an ask, answered by its version. Raises what that raises."""
        began_s = self.clock.elapsed_s()
        asked = request.only(ask.rows)
        missing = [name for name in version.needed if any(value is None for value in asked.columns[name])]
        if missing:
            raise NeededField(f"version {version.number} needs the request field {missing[0]!r}")
        keys = {field.name: asked.columns[field.name] for field in version.signature.entities}
        features = self.reader.read(version.signature.features, keys, asked.at_us)
        read_s = self.clock.elapsed_s()
        known = {**asked.columns, **features.columns}
        inputs = {f.name: known[f.name] for f in version.inputs}
        if version.remembered is None:
            outputs, cached = await version.backbone.predict(inputs, asked.rows), None
        else:
            outputs, cached = await version.remembered.predict(inputs, asked.rows)
        return Part(
            ask=ask,
            version=version,
            request=asked,
            features=features,
            outputs=outputs,
            cached=cached,
            features_us=int((read_s - began_s) * 1e6),
            predict_us=int((self.clock.elapsed_s() - read_s) * 1e6),
        )

    async def _parts(self, served: Served, request: Request, units: Sequence[str], request_id: str) -> list[Part]:
        dispatch = Dispatch(served.table, units)
        parts: list[Part] = []
        instructions, error = dispatch.begin(), None
        while True:
            asks: list[Ask] = []
            for instruction in instructions:
                if isinstance(instruction, Ask):
                    asks.append(instruction)
                elif isinstance(instruction, Mirror):
                    self.mirror(served, instruction, request, request_id, units)
                elif isinstance(instruction, Count):
                    self.count(served.name, instruction)
                elif isinstance(instruction, Fail):
                    assert error is not None
                    raise error
            if not asks:
                return parts
            found = (
                [await self._tried(served, asks[0], request)]
                if len(asks) == 1
                else await asyncio.gather(*(self._tried(served, ask, request) for ask in asks))
            )
            instructions = []
            for ask, result in zip(asks, found, strict=True):
                if isinstance(result, Part):
                    parts.append(result)
                    instructions += dispatch.answered(ask)
                else:
                    failure, why = result
                    error = why if ask.is_gold else error
                    instructions += dispatch.failed(ask, failure)

    async def _tried(self, served: Served, ask: Ask, request: Request) -> Part | tuple[Failure, Exception]:
        version = served.versions[ask.version]
        limit_s = served.deadline_s if ask.is_gold else served.experiment_s
        try:
            if not version.remote:  # it answers before anybody could look at a clock
                return await self.part(version, ask, request)
            async with asyncio.timeout(limit_s):
                return await self.part(version, ask, request)
        except TimeoutError:
            return "late", Unavailable(f"{served.name!r} did not answer within {limit_s:g} s: try again")
        except Exception as error:  # noqa: BLE001 - an experiment may fail as it likes; gold's error is raised by the caller
            return "failed", error


def _units(served: Served, request: Request, request_id: str) -> list[str]:
    """What sticks to an arm: the entity, or the request if the model knows no entity."""
    entities = served.gold.signature.entities
    if not entities:
        return [request_id] * request.rows
    keys = [request.columns[field.name] for field in entities]
    return ["|".join("" if key is None else str(key) for key in row) for row in zip(*keys, strict=True)]


def _render(name: str, request_id: str, ids: Sequence[str], parts: Sequence[Part]) -> bytes:
    predictions: list[Any] = [None] * len(ids)
    for part in parts:
        model = {"name": name, "version": part.version.number, "digest": part.version.digest}
        for i, row in enumerate(part.ask.rows):
            predictions[row] = {
                "id": ids[row],
                "outputs": {name: values[i] for name, values in part.outputs.items()},
                "model": model,
                "arm": part.ask.arms[i].arm.name,
                "propensity": part.ask.arms[i].propensity,
                "features": {view: status[i] for view, status in part.features.status.items()},
            }
    return orjson.dumps({"request_id": request_id, "predictions": predictions})


def record_of(
    name: str,
    request_id: str,
    ids: Sequence[str],
    units: Sequence[str],
    part: Part,
    received_us: int,
    latency_us: int,
    *,
    shadow: bool = False,
) -> Record:
    """`ids` and `units` are those of the whole request."""
    version, rows, places = part.version, part.request.rows, part.ask.rows
    columns: dict[str, Sequence[Any]] = {
        "prediction_id": [ids[row] for row in places],
        "request_id": [request_id] * rows,
        "at": part.request.at_us,
        "received_at": [received_us] * rows,
        "model": [name] * rows,
        "version": [version.number] * rows,
        "digest": [version.digest] * rows,
        "arm": [a.arm.name for a in part.ask.arms],
        "propensity": [a.propensity for a in part.ask.arms],
        "instead": [part.ask.instead] * rows,
        "shadow": [shadow] * rows,
        "cached": part.cached or [False] * rows,
        "unit": [units[row] for row in places],
        "latency_us": [latency_us] * rows,
        "features_us": [part.features_us] * rows,
        "predict_us": [part.predict_us] * rows,
    }
    asked = {field.name for field in (*version.signature.entities, *version.signature.request)}
    columns |= {asked_column(n): values for n, values in part.request.columns.items() if n in asked}
    columns |= part.features.columns
    columns |= {f"status.{view}": status for view, status in part.features.status.items()}
    columns |= {f"output.{n}": values for n, values in part.outputs.items()}
    return Record(name=name, schema=version.schema, columns=columns, rows=rows)
