"""What every metadata store refuses, and how it writes values: shared, so that the implementations cannot differ."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mlplat.errors import InvalidInput

MAX_TEXT = 5_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/ ]{0,199}")


def check_name(name: str) -> None:
    """A name of a model or experiment: it becomes a folder and a part of addresses."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name {name!r}: use letters, digits, '_', '-' and '.', at most 200, beginning with a letter or a digit"
        )


def texts(kind: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Params or tags as they are stored: text, under keys that every store can hold."""
    stored = {}
    for key, value in values.items():
        text = holdable(str(value))
        if not _KEY.fullmatch(key):
            raise InvalidInput(f"{kind} {key!r}: a key has letters, digits, '_', '-', '.', '/' and spaces, at most 200")
        if len(text) > MAX_TEXT:
            raise InvalidInput(f"{kind} {key!r} has {len(text)} characters; {MAX_TEXT} is the limit")
        stored[key] = text
    return stored


def holdable(text: str) -> str:
    """Without the one character that PostgreSQL cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as they are stored: finite numbers only, because a NaN would compare as neither better nor worse."""
    texts("metric", metrics)
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise InvalidInput(f"metric {key!r} is {value}, and only finite numbers are recorded")
    return {key: float(value) for key, value in metrics.items()}


def plain(value: Any) -> Any:
    """A copy that JSON can hold: a number that is not finite becomes its name, anything unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # numpy's scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
