"""From the bytes of a request to the bytes of its answer: parse, assign an arm, read features, predict, log. No I/O "
"but the
feature read, no waiting; whoever calls it decides where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import pyarrow as pa

from mlplat.clock import Clock
from mlplat.features.online import FeatureReader, OnlineRows
from mlplat.model.signature import Field, Signature
from mlplat.serve.log import PredictionLog, Record, asked_column, schema_of
from mlplat.serve.request import Parser, Request
from mlplat.serve.routing import Assignment, RoutingTable, assign_all


class Predictor(Protocol):
    """What serving needs of a model."""

    @property
    def signature(self) -> Signature: ...

    @property
    def digest(self) -> str: ...

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> Mapping[str, Any]:
        """Arrays by output name, one value per row of the input columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A model version that is loaded, with what every request to it needs, made once."""

    number: int
    model: Predictor
    parser: Parser
    schema: pa.Schema
    inputs: tuple[Field, ...]

    @classmethod
    def of(cls, number: int, model: Predictor) -> Version:
        signature = model.signature
        return cls(
            number=number,
            model=model,
            parser=Parser(signature),
            schema=schema_of(signature),
            inputs=signature.inputs(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A name and who answers for it. Replaced as a whole, never changed: a request sees one of them from start to
    end.
    """

    name: str
    table: RoutingTable
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """Answers requests. An unknown entity is no error: its features are null and their status says "missing"."""

    reader: FeatureReader
    log: PredictionLog
    clock: Clock
    new_id: Callable[[], str]

    def answer(self, served: Served, body: bytes, request_id: str) -> bytes:
        """The JSON of the answer. Raises `HttpError` for a request that cannot be answered as it is."""
        started_s, received_us = self.clock.elapsed_s(), self.clock.now_us()
        version = served.version
        request = version.parser.parse(body, now_us=received_us)
        units = _units(version.model.signature, request, request_id)
        arms = assign_all(served.table, units)
        features = self._read(version.model.signature, request)
        inputs = {f.name: request.columns.get(f.name, features.columns.get(f.name)) for f in version.inputs}
        outputs = {name: values.tolist() for name, values in version.model.predict(_complete(inputs)).items()}
        own_id = self.new_id()
        ids = [f"{own_id}-{i}" for i in range(request.rows)]
        answer = _render(served, request_id, ids, arms, features, outputs)
        latency_us = int((self.clock.elapsed_s() - started_s) * 1e6)
        self.log.append(
            _record(served, request_id, ids, request, units, arms, features, outputs, received_us, latency_us)
        )
        return answer

    def _read(self, signature: Signature, request: Request) -> OnlineRows:
        keys = {field.name: request.columns[field.name] for field in signature.entities}
        return self.reader.read(signature.features, keys, request.at_us)


def _complete(inputs: Mapping[str, Sequence[Any] | None]) -> Mapping[str, Sequence[Any]]:
    missing = [name for name, values in inputs.items() if values is None]
    assert not missing, f"the feature reader left out {missing}"
    return {name: values for name, values in inputs.items() if values is not None}


def _units(signature: Signature, request: Request, request_id: str) -> list[str]:
    """What sticks to an arm: the entity, or the request if the model knows no entity."""
    if not signature.entities:
        return [request_id] * request.rows
    keys = [request.columns[field.name] for field in signature.entities]
    return ["|".join("" if key is None else str(key) for key in row) for row in zip(*keys, strict=True)]


def _render(
    served: Served,
    request_id: str,
    ids: Sequence[str],
    arms: Sequence[Assignment],
    features: OnlineRows,
    outputs: Mapping[str, Sequence[Any]],
) -> bytes:
    version = served.version
    model = {"name": served.name, "version": version.number, "digest": version.model.digest}
    predictions = [
        {
            "id": ids[i],
            "outputs": {name: values[i] for name, values in outputs.items()},
            "model": model,
            "arm": arms[i].arm.name,
            "propensity": arms[i].propensity,
            "features": {view: status[i] for view, status in features.status.items()},
        }
        for i in range(len(ids))
    ]
    return orjson.dumps({"request_id": request_id, "predictions": predictions})


def _record(
    served: Served,
    request_id: str,
    ids: Sequence[str],
    request: Request,
    units: Sequence[str],
    arms: Sequence[Assignment],
    features: OnlineRows,
    outputs: Mapping[str, Sequence[Any]],
    received_us: int,
    latency_us: int,
) -> Record:
    version, rows = served.version, request.rows
    columns: dict[str, Sequence[Any]] = {
        "prediction_id": ids,
        "request_id": [request_id] * rows,
        "at": request.at_us,
        "received_at": [received_us] * rows,
        "model": [served.name] * rows,
        "version": [version.number] * rows,
        "digest": [version.model.digest] * rows,
        "arm": [a.arm.name for a in arms],
        "propensity": [a.propensity for a in arms],
        "unit": units,
        "latency_us": [latency_us] * rows,
    }
    columns |= {asked_column(name): values for name, values in request.columns.items()}
    columns |= features.columns
    columns |= {f"status.{view}": status for view, status in features.status.items()}
    columns |= {f"output.{name}": values for name, values in outputs.items()}
    return Record(name=served.name, schema=version.schema, columns=columns, rows=rows)
