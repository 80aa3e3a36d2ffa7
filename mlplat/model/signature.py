"""The interface of a model: what a request must carry, which pinned features are read for it, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from mlplat.errors import InvalidInput

DType = Literal["float64", "int64", "string", "bool", "timestamp"]
DTYPES: tuple[str, ...] = get_args(DType)
ARROW = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One named, typed value. `timestamp` is microseconds UTC. `required` fields of a request may not be absent or null."""

    name: str
    dtype: DType
    required: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"field {self.name!r}: dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRef:
    """A view pinned to a version. `fields` carry the view's own names; in a model's input a feature is called `view.field`."""

    view: str
    version: str
    keys: tuple[str, ...]
    fields: tuple[Field, ...]

    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.view}.{f.name}" for f in self.fields)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FeatureRef:
        return cls(
            view=value["view"],
            version=value["version"],
            keys=tuple(value["keys"]),
            fields=_fields(value["fields"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Inputs and outputs of a model, and what it does once before it answers.

    `entities` are the entity keys and `request` the other request fields that a caller sends; `features` are read from the
    store by the entity keys; `outputs` are the fields of the answer. The model's input columns are the request fields and
    then the features, in this order; an entity key is no input unless it is a request field too.
    `initialisation` are methods of the model's own code that are called once, in this order, before the first answer.
    """

    entities: tuple[Field, ...]
    request: tuple[Field, ...]
    features: tuple[FeatureRef, ...]
    outputs: tuple[Field, ...]
    initialisation: tuple[str, ...] = ()

    def inputs(self) -> tuple[Field, ...]:
        features = (
            Field(name=column, dtype=f.dtype)
            for ref in self.features
            for column, f in zip(ref.columns(), ref.fields, strict=True)
        )
        return (*self.request, *features)

    def schema(self) -> pa.Schema:
        """Of the model's input columns, in Arrow."""
        return _schema(self.inputs())

    def output_schema(self) -> pa.Schema:
        """Of the answer, in Arrow."""
        return _schema(self.outputs)

    def to_json(self) -> dict[str, Any]:
        spec = asdict(self)
        if not self.initialisation:  # as it was before there was any
            del spec["initialisation"]
        return spec

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Signature:
        return cls(
            entities=_fields(value["entities"]),
            request=_fields(value["request"]),
            features=tuple(FeatureRef.from_json(ref) for ref in value["features"]),
            outputs=_fields(value["outputs"]),
            initialisation=tuple(value.get("initialisation", ())),
        )


def _schema(fields: Iterable[Field]) -> pa.Schema:
    return pa.schema([pa.field(f.name, ARROW[f.dtype], nullable=not f.required) for f in fields])


def _fields(values: Iterable[Mapping[str, Any]]) -> tuple[Field, ...]:
    return tuple(Field(name=v["name"], dtype=v["dtype"], required=v["required"]) for v in values)
