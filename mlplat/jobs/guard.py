"""Runs a command, and ends it with all that it has started when the process that asked for it is gone.

`python guard.py ARGUMENTS`, with the arguments as JSON, and a standard input that closes then. SIGTERM is passed on. It imports
little: it starts with each job.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys


def code_of(code: int) -> int:
    """The command's own exit code, from the guard's."""
    return 128 - code if code > 128 else code


def main() -> int:
    parent = sys.stdin.fileno()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    asked = False
    try:
        child = subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"mlplat: {error}\n")
        return 127  # as shells say it
    while child.poll() is None:
        ready, _, _ = select.select([parent, read], [], [])
        if parent in ready:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            break
        if signal.SIGTERM in os.read(read, 64) and not asked:
            asked = True
            os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):  # what it has left behind
        os.killpg(child.pid, signal.SIGKILL)
    return 128 - child.returncode if child.returncode < 0 else child.returncode


if __name__ == "__main__":
    sys.exit(main())
