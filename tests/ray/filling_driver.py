"""`python -m tests.ray.filling_driver HOME`: a driver with a cluster of its own that backfills until it is killed."""

from __future__ import annotations

import sys

import mlplat
from tests.features.filling import small_commits, squared

if __name__ == "__main__":
    small_commits()
    with mlplat.connect(sys.argv[1]) as platform:
        platform.features.backfill(squared, wait=True)
