"""Values as bytes: a JSON header and raw parts behind it, each with its length in front."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from mlplat.errors import Corrupt

_LENGTH = struct.Struct("<I")


def pack(header: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    blobs = [orjson.dumps(header), *parts]
    return b"".join(piece for blob in blobs for piece in (_LENGTH.pack(len(blob)), blob))


def unpack(raw: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Raises `Corrupt` for bytes that `pack` did not make."""
    blobs: list[bytes] = []
    at = 0
    try:
        while at < len(raw):
            (length,) = _LENGTH.unpack_from(raw, at)
            blob = raw[at + _LENGTH.size : at + _LENGTH.size + length]
            if len(blob) != length:
                raise ValueError("it is cut off")
            blobs.append(blob)
            at += _LENGTH.size + length
        return orjson.loads(blobs[0]), blobs[1:]
    except (struct.error, ValueError, IndexError) as error:
        raise Corrupt(f"a sketch of {len(raw)} bytes is not what was written: {error}") from None
