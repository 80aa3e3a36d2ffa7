"""What user code raised, in the user's terms: the line of it that matters, and what to do where memory ran out. Imports no
torch."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from mlplat import errors
from mlplat.train.settings import TrainSettings

_NOT_THE_USERS = ("/site-packages/", str(Path(errors.__file__).parent) + "/", "<frozen ")
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
_SHOWN = 400


def line_of(error: BaseException) -> tuple[str, str]:
    """Where the user's code was, as "file:line", and what stands there; the library's line if there was none of the
    user's."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THE_USERS)]
    frame = (users or frames)[-1]
    return f"{frame.filename}:{frame.lineno}", frame.line or ""


def lacks_memory(error: BaseException) -> bool:
    """Whether there was less memory than was asked for: Python's own error, or what torch says of a CPU and of a GPU."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def out_of_memory(error: BaseException, settings: TrainSettings, *, rank: int, size: int) -> str:
    """What is told of it."""
    who = f"worker {rank} of {size}" if size > 1 else "the training"
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no more is known")
    where, line = line_of(error)
    rows = max(1, settings.batch_size // size // settings.accumulate)
    return (
        f"{who} ran out of memory, with {rows} rows at a time: {type(error).__name__}: {said[:_SHOWN]}\n"
        f"  at {where}: {line}\n"
        f"What takes less: {less_memory(settings)}. Such a change begins a new run; the same call goes on from the newest "
        "checkpoint of this one."
    )


def less_memory(settings: TrainSettings) -> str:
    """The ways."""
    ways = [
        f"a batch_size below {settings.batch_size}",
        f"accumulate={2 * settings.accumulate}, which makes the same step of half as many rows at a time",
    ]
    if settings.parallel == "ddp":
        ways.append('parallel="fsdp", where each of several workers holds a share of the network and its optimiser')
    return "; ".join(ways)
