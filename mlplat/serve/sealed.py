"""Answers as bytes that leave this process, and how they are known again: by a form, a checksum, and the key they belong to.

They are JSON, so whatever stands there can do nothing but be data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

_FORM = b"\x01"
_CHECK_BYTES = 8


def seal(key: bytes, values: Sequence[Any]) -> bytes | None:
    """The outputs for one row. None for those that JSON would give back as others."""
    try:
        text = json.dumps(values, separators=(",", ":")).encode()  # not orjson: it makes null of NaN
    except (TypeError, ValueError):
        return None
    return _FORM + _check(key, text) + text


def unseal(key: bytes, blob: bytes, width: int) -> tuple[Any, ...] | None:
    """What was sealed with this key, if it has as many outputs. None for whatever else the bytes are: those of another key
    too, as when a connection gives one caller what another asked for."""
    text = blob[1 + _CHECK_BYTES :]
    if blob[: 1 + _CHECK_BYTES] != _FORM + _check(key, text):
        return None
    values = json.loads(text)
    return tuple(values) if isinstance(values, list) and len(values) == width else None


def _check(key: bytes, text: bytes) -> bytes:
    return blake2b(text, key=key, digest_size=_CHECK_BYTES).digest()
