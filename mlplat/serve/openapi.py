"""The OpenAPI page of the endpoint, made from the signatures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from mlplat.features.online import Status
from mlplat.model.signature import DType, Field, Signature
from mlplat.serve.policy import Rules
from mlplat.serve.request import MAX_ROWS, MAX_STRING
from mlplat.serve.v2 import DATATYPES, MODELS

_TYPES: Mapping[DType, dict[str, Any]] = {
    "float64": {"type": "number"},
    "int64": {"type": "integer", "format": "int64"},
    "string": {"type": "string", "maxLength": MAX_STRING},
    "bool": {"type": "boolean"},
    "timestamp": {"type": "string", "format": "date-time"},
}
_ERRORS = {
    "400": "not JSON, or not a request",
    "401": "no valid token",
    "404": "no such model",
    "408": "the body did not come in time",
    "413": "too large",
    "415": "not application/json",
    "422": "fields that are wrong, by name and row, or rows whose features this endpoint refuses",
    "503": "overloaded or starting, or features that did not come: try again",
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "fields": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "field": {"type": "string"},
                            "message": {"type": "string"},
                            "row": {"type": ["integer", "null"]},
                        },
                    },
                },
            },
        }
    },
}


_V2_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}}
_JSON: Mapping[str, Any] = {"type": "object"}


def document(signatures: Mapping[str, Signature], rules: Mapping[str, Rules]) -> dict[str, Any]:
    """Signatures and rules by the names that are served."""
    paths: dict[str, Any] = {}
    for name, signature in signatures.items():
        paths[f"/predict/{name}"] = {"post": _operation(name, signature, rules[name])}
        paths |= _protocol(name, signature)
    paths["/v2"] = _page("the server, in the Open Inference Protocol", _JSON)
    paths["/v2/health/live"] = _page("whether the server runs", _flag("live"))
    paths["/v2/health/ready"] = _page("whether every model answers", _flag("ready"))
    paths["/metrics"] = _page("counts and times, for Prometheus", {"type": "string"}, "text/plain")
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlplat", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, "V2Error": _V2_ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(name: str, signature: Signature, rules: Rules) -> dict[str, Any]:
    answer = _answer(signature, rules)
    return _asking(f"predict_{name}", _request(signature), "one prediction per row, in order", answer, "Error")


def _protocol(name: str, signature: Signature) -> dict[str, Any]:
    model = f"{MODELS}{name}"
    infer = _asking(f"infer_{name}", _tensors_in(signature), "the outputs", _tensors_out(signature), "V2Error")
    return {
        f"{model}/infer": {"post": infer},
        model: _page("the model's tensors, in the Open Inference Protocol", _JSON),
        f"{model}/ready": _page("whether the model answers", _flag("ready")),
    }


def _asking(
    operation: str, request: dict[str, Any], said: str, answer: dict[str, Any], error: Literal["Error", "V2Error"]
) -> dict[str, Any]:
    """A route that predicts. Whether it asks for a token is up to the endpoint."""
    errors = {
        status: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}},
        }
        for status, description in _ERRORS.items()
    }
    return {
        "operationId": operation,
        "security": [{}, {"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": {"description": said, "content": {"application/json": {"schema": answer}}}, **errors},
    }


def _page(said: str, schema: Mapping[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"get": {"responses": {"200": {"description": said, "content": {media: {"schema": schema}}}}}}


def _flag(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "boolean"}}}


def _tensors_in(signature: Signature) -> dict[str, Any]:
    asked = {f.name: f for f in (*signature.entities, *signature.request)}.values()
    text = {"type": "string"}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["inputs"],
        "properties": {
            "id": text,
            "parameters": {"type": "object", "properties": {"at": _TYPES["timestamp"]}},
            "inputs": {"type": "array", "items": {"oneOf": [_tensor(f, limited=True) for f in asked]}},
            "outputs": {
                "type": "array",
                "items": {"type": "object", "properties": {"name": text}, "required": ["name"]},
            },
        },
    }


def _tensors_out(signature: Signature) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "properties": {
            "model_name": text,
            "model_version": text,
            "id": text,
            "outputs": {"type": "array", "items": {"anyOf": [_tensor(f, limited=False) for f in signature.outputs]}},
        },
    }


def _tensor(field: Field, *, limited: bool) -> dict[str, Any]:
    """One value a row, flat."""
    item = _properties([field])[field.name] if limited else _answered(field)
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": field.name},
            "datatype": {"const": DATATYPES[field.dtype]},
            "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            "data": {"type": "array", "maxItems": MAX_ROWS, "items": item},
        },
    }


def _request(signature: Signature) -> dict[str, Any]:
    asked = {f.name: f for f in (*signature.entities, *signature.request)}.values()
    required = sorted({f.name for f in signature.entities} | {f.name for f in signature.request if f.required})
    properties = {"at": _TYPES["timestamp"]} | _properties(asked)
    row = {"type": "object", "additionalProperties": False, "properties": properties, "required": required}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["rows"],
        "properties": {
            "rows": {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": row},
            "at": {**_TYPES["timestamp"], "description": "the now of windows and time-to-live; default: now"},
        },
    }


def _answer(signature: Signature, rules: Rules) -> dict[str, Any]:
    model = {"name": {"type": "string"}, "version": {"type": "integer"}, "digest": {"type": "string"}}
    prediction = {
        "id": {"type": "string"},
        "outputs": {"type": "object", "properties": {f.name: _answered(f) for f in signature.outputs}},
        "model": {"type": "object", "properties": model},
        "arm": {"type": "string"},
        "propensity": {"type": "number"},
        "features": {
            "type": "object",
            "properties": {ref.view: {"enum": _statuses(ref.view, rules)} for ref in signature.features},
            "additionalProperties": {"enum": list(get_args(Status))},  # views that an experiment alone reads
            "description": f"by view; features that are not ok are null{_kept(rules)}",
        },
    }
    return {
        "type": "object",
        "properties": {
            "request_id": {"type": "string"},
            "predictions": {"type": "array", "items": {"type": "object", "properties": prediction}},
        },
    }


def _statuses(view: str, rules: Rules) -> list[str]:
    """What an answer may say: a row with another status is refused."""
    return [status for status in get_args(Status) if status not in rules.refuse.get(view, ())]


def _kept(rules: Rules) -> str:
    return f", but for expired ones of {', '.join(sorted(rules.keep))}" if rules.keep else ""


def _properties(fields: Iterable[Field]) -> dict[str, Any]:
    return {f.name: _TYPES[f.dtype] if f.required else _nullable(_TYPES[f.dtype]) for f in fields}


def _answered(output: Field) -> dict[str, Any]:
    """The limit of a text is one on what is asked."""
    return {name: value for name, value in _properties([output])[output.name].items() if name != "maxLength"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}
