"""The Open Inference Protocol (KServe's V2), its JSON form: tensors in, tensors out. Pure.

Each entity key and request field is a tensor of one value a row. Tensors become the rows that `POST /predict/NAME`
takes, so that both go the same way; what comes of them becomes tensors again. Numbers may come in any width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mlplat.model.signature import DType, Field, Signature
from mlplat.serve.http import FieldError, HttpError
from mlplat.serve.request import MAX_ROWS, MAX_STRING, Asked, Parser, load, refusal, shape

ROOT = "/v2"
MODELS = "/v2/models/"
DATATYPES: Mapping[DType, str] = {
    "float64": "FP64",
    "int64": "INT64",
    "bool": "BOOL",
    "string": "BYTES",
    "timestamp": "BYTES",
}
_INTEGERS = frozenset(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_TAKEN: Mapping[DType, frozenset[str]] = {
    "float64": _INTEGERS | {"FP16", "BF16", "FP32", "FP64"},
    "int64": _INTEGERS,
    "bool": frozenset({"BOOL"}),
    "string": frozenset({"BYTES"}),
    "timestamp": frozenset({"BYTES"}),
}
# What a row's prediction says besides the model's outputs: answered where it is asked for by name.
EXTRA: Mapping[str, tuple[str, str]] = {
    "mlplat.prediction_id": ("BYTES", "id"),
    "mlplat.version": ("INT64", "version"),
    "mlplat.arm": ("BYTES", "arm"),
    "mlplat.propensity": ("FP64", "propensity"),
}
_ENOUGH = 20
_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path below `/v2/models/` speaks of: `verb` is "" (the model itself), "ready" or "infer"."""

    name: str
    version: str | None
    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """A request: its rows, the id to answer with, and the outputs to answer (None: the model's)."""

    asked: Asked
    id: str | None
    outputs: tuple[str, ...] | None


def speaks(path: str) -> bool:
    return path == ROOT or path.startswith(ROOT + "/")


def target(path: str) -> Target | None:
    """None if there is no such path. A name that is not served is the caller's to find out."""
    name, *rest = path.removeprefix(MODELS).split("/")
    version = None
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    if rest not in ([], ["ready"], ["infer"]):
        return None
    return Target(name=name, version=version, verb=rest[0] if rest else "")


def server() -> dict[str, Any]:
    return {"name": "mlplat", "version": "1", "extensions": []}


def metadata(name: str, version: int, signature: Signature) -> dict[str, Any]:
    asked = {f.name: f for f in (*signature.entities, *signature.request)}.values()
    return {
        "name": name,
        "versions": [str(version)],
        "platform": "mlplat",
        "inputs": [_described(f) for f in asked],
        "outputs": [_described(f) for f in signature.outputs],
    }


def error(failure: HttpError) -> bytes:
    """The protocol has one text for everything that is wrong: every field is named in it."""
    found = [f for f in failure.fields if failure.status == 422]
    said = [f"field {f.field!r}{'' if f.row is None else f' of row {f.row}'} {f.message}" for f in found]
    return json.dumps({"error": "; ".join(said) or failure.message}).encode()


def refuse_binary(headers: Sequence[tuple[bytes, bytes]]) -> None:
    if any(name == _LENGTH for name, _ in headers):
        raise HttpError(
            400,
            "binary_tensors",
            "tensors come as JSON here, not in binary: leave out Inference-Header-Content-Length "
            "(tritonclient: set_data_from_numpy(..., binary_data=False))",
        )


def read(body: bytes, parser: Parser) -> Inference:
    """`HttpError` 400 for what is not a request of the protocol, 422 for tensors that are not those of the model.
    Values are checked later, where all rows are."""
    value, strict = load(body)
    if not isinstance(value, dict):
        raise shape('the body is not an object: send {"inputs": [{"name", "datatype", "shape", "data"}]}')
    _known("the request", value, ("id", "parameters", "inputs", "outputs"))
    named = value.get("id")
    if named is not None and type(named) is not str:
        raise shape("'id' is not a string", "id")
    columns = _columns(value.get("inputs"), parser)
    names = list(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    at = _parameters(value, "the request").get("at")
    return Inference(asked=Asked(rows=rows, at=at, strict=strict), id=named, outputs=_wanted(value.get("outputs")))


def check_outputs(asked: Inference, signature: Signature) -> None:
    """Before anything is computed."""
    known = [*(f.name for f in signature.outputs), *EXTRA]
    for name in asked.outputs or ():
        if name not in known:
            shown = name[:MAX_STRING]
            raise shape(f"there is no output {shown!r}; there are {', '.join(map(repr, known))}", shown)


def write(asked: Inference, answer: bytes, signature: Signature) -> bytes:
    """The answer to `asked.asked`, as tensors. `model_version` is that of the first row."""
    said = orjson.loads(answer)
    predictions = said["predictions"]
    model = predictions[0]["model"]
    outputs = {f.name: f for f in signature.outputs}
    wanted = tuple(outputs) if asked.outputs is None else asked.outputs
    return orjson.dumps(
        {
            "model_name": model["name"],
            "model_version": str(model["version"]),
            "id": said["request_id"] if asked.id is None else asked.id,
            "outputs": [_tensor(name, outputs.get(name), predictions) for name in wanted],
        }
    )


def _described(field: Field) -> dict[str, Any]:
    return {"name": field.name, "datatype": DATATYPES[field.dtype], "shape": [-1, 1]}


def _tensor(name: str, output: Field | None, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if output is not None:
        datatype, data = DATATYPES[output.dtype], [p["outputs"].get(name) for p in predictions]
    elif name == "mlplat.version":
        datatype, data = EXTRA[name][0], [p["model"]["version"] for p in predictions]
    else:
        datatype, data = EXTRA[name][0], [p[EXTRA[name][1]] for p in predictions]
    return {"name": name, "datatype": datatype, "shape": [len(data), 1], "data": data}


def _columns(inputs: Any, parser: Parser) -> dict[str, Sequence[Any]]:
    if not isinstance(inputs, list) or not inputs:
        raise shape("'inputs' is missing or is not a list of one tensor or more", "inputs")
    columns: dict[str, Sequence[Any]] = {}
    problems: list[FieldError] = []
    for tensor in inputs:
        if not isinstance(tensor, dict) or type(tensor.get("name")) is not str:
            raise shape("every input is an object with a 'name': {name, datatype, shape, data}", "inputs")
        name = tensor["name"]
        shown = name[:MAX_STRING]
        _known(f"input {shown!r}", tensor, ("name", "datatype", "shape", "parameters", "data"), shown)
        _parameters(tensor, f"input {shown!r}")
        if name in columns:
            raise shape(f"input {shown!r} is there twice", shown)
        if (problem := _refused(tensor, parser)) is not None:
            problems.append(FieldError(field=shown, message=problem))
            if len(problems) >= _ENOUGH:
                break
        columns[name] = _data(tensor, shown)
    if problems:
        raise refusal(problems)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        said = ", ".join(f"{name[:MAX_STRING]!r} {len(values)}" for name, values in list(columns.items())[:_ENOUGH])
        raise shape(f"the inputs are not of one number of rows: {said}", "inputs")
    return columns


def _refused(tensor: Mapping[str, Any], parser: Parser) -> str | None:
    """Why this is no tensor of the model."""
    dtype = parser.dtypes.get(tensor["name"])
    if dtype is None:
        return parser.near(tensor["name"])
    datatype = tensor.get("datatype")
    if type(datatype) is str and datatype in _TAKEN[dtype]:
        return None
    hint = " in ISO 8601" if dtype == "timestamp" else ""
    said = f"has datatype {datatype[:20]!r}" if type(datatype) is str else "has no datatype"
    return f"{said}: send {DATATYPES[dtype]}{hint}"


def _data(tensor: Mapping[str, Any], name: str) -> list[Any]:
    """One value a row: flat, or nested as the shape says."""
    rows = _rows(tensor.get("shape"), name)
    data = tensor.get("data")
    if not isinstance(data, list):
        raise shape(
            f"input {name!r} has no list as 'data': send its values as JSON (tritonclient: binary_data=False)", name
        )
    if len(tensor["shape"]) == 2 and data and isinstance(data[0], list):
        if not all(isinstance(row, list) and len(row) == 1 for row in data):
            raise shape(f"input {name!r}: every row of 'data' is one value, as its shape says", name)
        data = [row[0] for row in data]
    if len(data) != rows:
        raise shape(f"input {name!r} has {len(data)} values, and its shape says {rows}", name)
    return data


def _rows(dimensions: Any, name: str) -> int:
    if (
        not isinstance(dimensions, list)
        or not all(type(n) is int and n >= 0 for n in dimensions)
        or not (len(dimensions) == 1 or (len(dimensions) == 2 and dimensions[1] == 1))
    ):
        raise shape(f"input {name!r}: its shape is one value a row, [rows] or [rows, 1]", name)
    rows: int = dimensions[0]
    if rows == 0:
        raise shape(f"input {name!r} has no rows: send one or more", name)
    if rows > MAX_ROWS:
        raise shape(f"{rows} rows are more than {MAX_ROWS}: send several requests", name)
    return rows


def _wanted(outputs: Any) -> tuple[str, ...] | None:
    """A list of none is as good as no list."""
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise shape("'outputs' is not a list", "outputs")
    names: list[str] = []
    for output in outputs:
        if not isinstance(output, dict) or type(output.get("name")) is not str:
            raise shape("every output is an object with a 'name'", "outputs")
        _known("an output", output, ("name", "parameters"))
        _parameters(output, "an output")
        names.append(output["name"])
    if len(set(names)) < len(names):
        raise shape("an output is there twice", "outputs")
    return tuple(names)


def _parameters(value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Of the request `at` is honoured; others are taken and do nothing, as those of clients that know extensions."""
    found = value.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise shape(f"'parameters' of {where} is not an object", "parameters")
    return found


def _known(where: str, value: Mapping[str, Any], keys: Sequence[str], field: str | None = None) -> None:
    unknown = value.keys() - set(keys)
    if unknown:
        shown = min(unknown)[:MAX_STRING]
        raise shape(f"unknown key {shown!r} of {where}: the keys are {', '.join(map(repr, keys))}", field or shown)
