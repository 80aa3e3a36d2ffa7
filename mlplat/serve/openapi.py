"""The OpenAPI page of the endpoint, made from the signatures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlplat.model.signature import DType, Field, Signature
from mlplat.serve.request import MAX_ROWS, MAX_STRING

_TYPES: Mapping[DType, dict[str, Any]] = {
    "float64": {"type": "number"},
    "int64": {"type": "integer", "format": "int64"},
    "string": {"type": "string", "maxLength": MAX_STRING},
    "bool": {"type": "boolean"},
    "timestamp": {"type": "string", "format": "date-time"},
}
_ERRORS = {
    "400": "not JSON, or not a request",
    "404": "no such model",
    "413": "too large",
    "415": "not application/json",
    "422": "fields that are wrong, by name and row",
    "503": "overloaded or starting: try again",
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


def document(signatures: Mapping[str, Signature]) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlplat", "version": "1"},
        "paths": {f"/predict/{name}": {"post": _operation(name, signature)} for name, signature in signatures.items()},
        "components": {"schemas": {"Error": _ERROR}},
    }


def _operation(name: str, signature: Signature) -> dict[str, Any]:
    errors = {
        status: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status, description in _ERRORS.items()
    }
    return {
        "operationId": f"predict_{name}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _request(signature)}}},
        "responses": {
            "200": {
                "description": "one prediction per row, in order",
                "content": {"application/json": {"schema": _answer(signature)}},
            },
            **errors,
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


def _answer(signature: Signature) -> dict[str, Any]:
    model = {"name": {"type": "string"}, "version": {"type": "integer"}, "digest": {"type": "string"}}
    prediction = {
        "id": {"type": "string"},
        "outputs": {"type": "object", "properties": {f.name: _answered(f) for f in signature.outputs}},
        "model": {"type": "object", "properties": model},
        "arm": {"type": "string"},
        "propensity": {"type": "number"},
        "features": {
            "type": "object",
            "additionalProperties": {"enum": ["ok", "missing", "expired"]},
            "description": "by view; the features of an unknown entity are null and missing",
        },
    }
    return {
        "type": "object",
        "properties": {
            "request_id": {"type": "string"},
            "predictions": {"type": "array", "items": {"type": "object", "properties": prediction}},
        },
    }


def _properties(fields: Iterable[Field]) -> dict[str, Any]:
    return {f.name: _TYPES[f.dtype] if f.required else _nullable(_TYPES[f.dtype]) for f in fields}


def _answered(output: Field) -> dict[str, Any]:
    """The limit of a text is one on what is asked."""
    return {name: value for name, value in _properties([output])[output.name].items() if name != "maxLength"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}
