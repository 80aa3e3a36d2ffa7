"""`breakpoint()` in the user's code, on a terminal, while a run in this process shows its bar."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

from mlplat.config import environment

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from mlplat.clock import SystemClock
from mlplat.train.gang import Alone
from mlplat.train.progress import progress_for
from mlplat.train.science import Science
from mlplat.train.session import learn
from tests.train.support import work

class Net(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.body, self.calls = nn.Linear(shape.numbers, shape.outputs), 0

    def forward(self, numeric, codes):
        self.calls += 1
        if self.calls in (30, 60):
            breakpoint()
        return self.body(numeric)

clock = SystemClock()
progress = progress_for(clock)
learn(work(Path(sys.argv[1]), science=Science(network=Net)), Alone(), progress, clock, lambda: False)
progress.end()
print("hook", sys.breakpointhook is sys.__breakpointhook__)
"""
PROMPT = b"(Pdb) "


@pytest.mark.slow
def test_a_breakpoint_gets_the_terminal_and_the_bar_comes_back(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    pid, terminal = pty.fork()
    if pid == 0:  # the child
        variables = {**environment().variables, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
        variables.pop("PYTHONBREAKPOINT", None)
        os.execve(sys.executable, [sys.executable, str(script), str(tmp_path)], variables)
    try:
        stopped = _until(terminal, PROMPT)
        assert b"script.py(22)forward()" in stopped  # the user's line, not ours
        assert b"-> return self.body(numeric)" in stopped
        assert b"\x1b[?25h" in stopped[stopped.rfind(b"\x1b[?25l") :]  # the cursor shows again
        os.write(terminal, b"p self.calls, numeric.shape[0]\n")
        assert _until(terminal, PROMPT).endswith(b"(30, 128)\r\n" + PROMPT)  # nothing was drawn meanwhile
        os.write(terminal, b"c\n")
        assert b"\x1b[?25l" in _until(terminal, PROMPT)  # the bar again, then the second stop
        os.write(terminal, b"p self.calls\n")
        assert _until(terminal, PROMPT).endswith(b"60\r\n" + PROMPT)
        os.write(terminal, b"c\n")
        ended = _until(terminal, b"hook True")
        assert b"epoch 3/3" in ended
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def _until(terminal: int, wanted: bytes) -> bytes:
    """What the terminal shows up to there."""
    found = b""
    while wanted not in found:
        try:
            found += os.read(terminal, 4096)
        except OSError:  # the process ended
            break
    assert wanted in found, found.decode(errors="replace")
    return found
