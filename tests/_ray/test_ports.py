"""Two clusters of one machine have no port of a replica in common, whatever the numbers of their processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlplat._ray import connect, flags

TELLS = "import sys; from mlplat._ray.connect import _own_number; print(_own_number(int(sys.argv[1])))"


def elsewhere(pid: int) -> int:
    done = subprocess.run([sys.executable, "-c", TELLS, str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_who_comes_second_gets_another_number_and_what_ended_holds_none() -> None:
    blocks = flags.REPLICA_BLOCKS
    mine = connect._own_number(7)
    later = elsewhere(mine + blocks)  # the same block by its number
    assert later % blocks != mine % blocks
    assert elsewhere(mine + blocks) == later  # the process before has ended
