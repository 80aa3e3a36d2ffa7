"""What is told of a run when it ends, however it ends, and the sending of it: no notifier can fail or hold up a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from mlplat.errors import Conflict, InvalidInput, MlplatError, NotYetAvailable, Refused, Unavailable
from mlplat.notify import Message, Notifier
from mlplat.train.progress import Progress
from mlplat.train.run import Interrupted
from mlplat.train.trainer import TrainedModel

DEADLINE_S = 12.0
"""Longer than two tries that time out; what takes longer is let go."""
SAID_AT_MOST = 2_000
CREDENTIALS = re.compile(r"://[^/\s]+@")

Result = TypeVar("Result", bound=TrainedModel | Interrupted)


def listed(notify: object) -> tuple[Notifier, ...]:
    """One notifier or several. `InvalidInput` for what is none, such as a bare URL, which is not shown."""
    several = notify if isinstance(notify, Sequence) and not isinstance(notify, str) else (notify,)
    for one in several:
        if not isinstance(one, Notifier) or isinstance(one, type):
            kind = one.__name__ if isinstance(one, type) else f"a {type(one).__name__}"
            raise InvalidInput(
                f"notify: {kind} is no notifier. Give a Webhook, Slack or Email of mlplat.notify, or an object with "
                "send(message)"
            )
    return tuple(several)


def told(
    run: Callable[[Callable[[str], None]], Result], *, name: str, notifiers: Sequence[Notifier], progress: Progress
) -> Result:
    """Run, tell the notifiers how it ended, and give or raise what the run did. `run` is given a function to call with the
    run's id once it has one."""
    ids: list[str] = []
    try:
        result = run(ids.append)
    except BaseException as error:
        deliver(_of_error(error, name, ids[-1] if ids else None), notifiers, progress)
        raise
    deliver(_of_result(result, name), notifiers, progress)
    return result


def deliver(
    message: Message, notifiers: Sequence[Notifier], progress: Progress, *, within_s: float = DEADLINE_S
) -> None:
    """To all at once, each with a second try. What did not arrive is noted, and no error."""
    deliveries = [_begun(notifier, message) for notifier in notifiers]
    wait(deliveries, timeout=within_s)
    for notifier, delivery in zip(notifiers, deliveries, strict=True):
        why = _failure(delivery) if delivery.done() else f"it took more than {within_s:g} s"
        if why is not None:
            progress.note(f"{type(notifier).__name__} was not notified: {why}")


def _begun(notifier: Notifier, message: Message) -> Future[None]:
    """On a thread that nobody has to wait for, not even the end of the process."""
    delivery: Future[None] = Future()

    def work() -> None:
        try:
            _sent(notifier, message)
        except BaseException as error:  # noqa: BLE001 - it is noted where the run is followed
            delivery.set_exception(error)
        else:
            delivery.set_result(None)

    Thread(target=work, name="mlplat-notify", daemon=True).start()
    return delivery


def _sent(notifier: Notifier, message: Message) -> None:
    with suppress(Unavailable):
        notifier.send(message)
        return
    notifier.send(message)


def _failure(delivery: Future[None]) -> str | None:
    """The message of an error that is not ours may hold a URL, and with it a secret."""
    error = delivery.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, MlplatError) else f"its send raised {type(error).__name__}"


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
