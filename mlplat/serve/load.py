"""From a record of what is served to models that are ready for the first request."""

from __future__ import annotations

from pathlib import Path

from mlplat.errors import Corrupt
from mlplat.model import artifact
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from mlplat.serve.state import Entry


def load(entry: Entry) -> Served:
    """Read the artifact, warm it with its golden rows and compare the answers with those of the day it was made.

    `Corrupt` if they differ: then this machine would not give the answers that were tested.
    """
    import torch

    torch.set_num_threads(1)  # one loop, one thread: more would only wait for one another on rows this few
    found = artifact.load(Path(entry.path), digest=entry.digest, trusted=True)
    difference = found.golden.difference(found.model)
    if not difference <= artifact.GOLDEN_TOLERANCE:
        raise Corrupt(
            f"{entry.path}: answers the golden rows {difference:g} away from what it answered when it was made."
        )
    gold = Arm(name=GOLD, version=entry.version, share=1.0)
    table = RoutingTable(epoch=entry.epoch, salt=entry.name, arms=(gold,))
    return Served.of(entry.name, table, [Version.of(entry.version, found.model)])
