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
from mlplat.serve.log import PredictionLog, Record
from mlplat.serve.lookup import Lookup
from mlplat.serve.policy import RefusedFeatures, Rules
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
    """Answers requests. An unknown entity is no error, unless the endpoint's policy says so: its features are null and their
    status says "missing". `lookup` reads in the place of `reader` where the online store is a server. `count` is told
    what counts against an arm, `mirror` what shadows are shown, `told` the parts of an answer and its latency in microseconds:
    none of them may wait."""

    reader: FeatureReader
    log: PredictionLog
    clock: Clock
    new_id: Callable[[], str]
    count: Callable[[str, Count], None] = lambda name, count: None
    told: Callable[[str, Sequence[Part], int], None] = lambda name, parts, latency_us: None
    mirror: Callable[[Served, Mirror, Request, str, Sequence[str]], None] = lambda *shown: None
    lookup: Lookup | None = None

    async def answer(self, served: Served, body: bytes | Asked, request_id: str) -> bytes:
        """The JSON of the answer. Raises `HttpError` for a request that cannot be answered as it is."""
        started_s, received_us = self.clock.elapsed_s(), self.clock.now_us()
        request = served.parser.parse(body, now_us=received_us)
        units = _units(served, request, request_id)
        ask = served.singles.of(units[0]) if request.rows == 1 else None
        if ask is not None and ask.is_gold and not served.gold.remote:  # nothing to decide, and nobody to wait for
            parts = [await self.part(served.gold, ask, request, served.rules)]
        else:
            parts = await self._parts(served, request, units, request_id)
        own_id = self.new_id()
        ids = [f"{own_id}-{i}" for i in range(request.rows)]
        answer = _render(served.name, request_id, ids, parts)
        latency_us = int((self.clock.elapsed_s() - started_s) * 1e6)
        for part in parts:
            self.log.append(record_of(served.name, request_id, ids, units, part, received_us, latency_us))
        self.told(served.name, parts, latency_us)
        return answer

    async def part(self, version: Version, ask: Ask, request: Request, rules: Rules) -> Part:
        """The rows of an ask, answered by its version. Raises what that raises, and `RefusedFeatures`."""
        began_s = self.clock.elapsed_s()
        asked = request.only(ask.rows)
        if not ask.is_gold:  # what gold needs, no request lacks
            missing = [name for name in version.needed if None in asked.columns[name]]
            if missing:
                raise NeededField(f"version {version.number} needs the request field {missing[0]!r}")
        refs = version.signature.features
        keys = {field.name: asked.columns[field.name] for field in version.signature.entities}
        if self.lookup is None:
            features = self.reader.read(refs, keys, asked.at_us, rules.keep)
        else:
            features = await self.lookup.read(refs, keys, asked.at_us, rules.keep, limit_s=rules.features_s)
        if rules.refuse:
            rules.check(refs, features.status, ask.rows)
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
                    if isinstance(why, RefusedFeatures) and served.refuses(why):
                        raise why
                    error = why if ask.is_gold else error
                    instructions += dispatch.failed(ask, failure)

    async def _tried(self, served: Served, ask: Ask, request: Request) -> Part | tuple[Failure, Exception]:
        version = served.versions[ask.version]
        limit_s = served.deadline_s if ask.is_gold else served.experiment_s
        try:
            if not version.remote:  # it answers before anybody could look at a clock
                return await self.part(version, ask, request, served.rules)
            async with asyncio.timeout(limit_s):
                return await self.part(version, ask, request, served.rules)
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
    if len(keys) == 1:
        return ["" if key is None else str(key) for key in keys[0]]
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
    version, ask, request = part.version, part.ask, part.request
    layout, number, digest = version.layout, version.number, version.digest
    values = [request.columns[column] for column in layout.asked]
    values += [part.features.columns[column] for column in layout.features]
    values += [part.features.status[view] for view in layout.views]
    values += [part.outputs[column] for column in layout.outputs]
    lines = [
        (
            ids[row],
            request_id,
            request.at_us[i],
            received_us,
            name,
            number,
            digest,
            ask.arms[i].arm.name,
            ask.arms[i].propensity,
            ask.instead,
            shadow,
            part.cached is not None and part.cached[i],
            units[row],
            latency_us,
            part.features_us,
            part.predict_us,
            *rest,
        )
        for i, (row, rest) in enumerate(zip(ask.rows, zip(*values, strict=True), strict=True))
    ]
    return Record(name=name, schema=layout.schema, lines=lines)
