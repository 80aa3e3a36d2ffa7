"""What is told of a run when it ends, however it ends."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mlplat.errors import Conflict, InvalidInput, NotYetAvailable, Refused
from mlplat.notify import Message, Notifier, deliver
from mlplat.train.progress import Progress
from mlplat.train.run import Interrupted
from mlplat.train.trainer import TrainedModel

SAID_AT_MOST = 2_000
CREDENTIALS = re.compile(r"://[^/\s]+@")

Result = TypeVar("Result", bound=TrainedModel | Interrupted)


def told(
    run: Callable[[Callable[[str], None]], Result], *, name: str, notifiers: Sequence[Notifier], progress: Progress
) -> Result:
    """Run, tell the notifiers how it ended, and give or raise what the run did. `run` is given a function to call with the
    run's id once it has one."""
    ids: list[str] = []
    try:
        result = run(ids.append)
    except BaseException as error:
        deliver(_of_error(error, name, ids[-1] if ids else None), notifiers, progress.note)
        raise
    deliver(_of_result(result, name), notifiers, progress.note)
    return result


def _of_result(result: TrainedModel | Interrupted, name: str) -> Message:
    if isinstance(result, Interrupted):
        return Message(
            subject=f"mlplat: training {name!r} was stopped",
            text=f"It was asked to stop after step {result.step}. The same call goes on from there.\nRun {result.run_id}.",
            event="interrupted",
            name=name,
            run_id=result.run_id,
            facts={"step": result.step},
        )
    version, seconds = result.version, result.seconds
    metrics = ", ".join(f"{metric.replace('_', ' ')} {value:.4f}" for metric, value in result.metrics.items())
    return Message(
        subject=f"mlplat: training {name!r} finished",
        text=f"Version {version.version} of {name!r}, in {seconds:.1f} s.\nBest epoch, on rows held out: {metrics}.\n"
        f"Nothing serves it before it is promoted.\nRun {version.run_id}.",
        event="finished",
        name=name,
        run_id=version.run_id,
        facts={"version": version.version, "digest": version.digest, "seconds": seconds, **_best(result.metrics)},
    )


def _best(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """What is undefined, such as the AUC of one class, is None: JSON has no NaN."""
    return {f"best_{metric}": value if math.isfinite(value) else None for metric, value in metrics.items()}


def _of_error(error: BaseException, name: str, run_id: str | None) -> Message:
    said = f"{type(error).__name__}: {_safe(str(error))}" if str(error) else type(error).__name__
    failed = isinstance(error, Exception)
    return Message(
        subject=f"mlplat: training {name!r} {'failed' if failed else 'was interrupted'}",
        text=f"{said}\n{_remedy(error)}\n{'Nothing was recorded.' if run_id is None else f'Run {run_id}.'}",
        event="failed" if failed else "interrupted",
        name=name,
        run_id=run_id,
        facts={"error": type(error).__name__, "reason": _safe(str(error))},
    )


def _safe(text: str) -> str:
    """Without the user and password of a URL, and not without end."""
    cleared = CREDENTIALS.sub("://***@", text)
    return cleared if len(cleared) <= SAID_AT_MOST else f"{cleared[:SAID_AT_MOST]} ..."


def _remedy(error: BaseException) -> str:
    if isinstance(error, InvalidInput):
        return "Next: correct what it names and train again; the run begins anew."
    if isinstance(error, Refused | NotYetAvailable | Conflict):
        return "Next: do what it says, then train again."
    if isinstance(error, Exception):
        return "Next: remove the cause and make the same call again; it goes on from the newest checkpoint."
    return "Next: the same call goes on from the newest checkpoint."
