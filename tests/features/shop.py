"""The source and view that the tests of faults write to from several processes."""

from __future__ import annotations

import zlib
from typing import Any

from mlplat import features as F
from tests.features.support import after

BATCH = 50

sales = F.source("sales", key="shop", time="sold_at", id="sale_id")


@F.view(sales)
class recent:
    sold_1d = F.count(window="1d")
    total_1d = F.sum("price", window="1d")


def sale(name: str) -> dict[str, Any]:
    return {"shop": "one", "sold_at": after(zlib.crc32(name.encode()) % 80_000), "price": 0.1, "sale_id": name}


def batch(name: str) -> list[dict[str, Any]]:
    return [sale(f"{name}/{i}") for i in range(BATCH)]
