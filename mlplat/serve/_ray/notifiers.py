"""Who is told of an endpoint, where its replica finds them: in the cluster's own memory. They hold secrets, such as the URL of
a webhook, and no file of the home may; and a replica that is started again must find them without the driver."""

from __future__ import annotations

from collections.abc import Sequence

from ray import cloudpickle
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from mlplat.errors import InvalidInput
from mlplat.notify import Message, Notifier, deliver

_NAMESPACE = "mlplat_notifiers"


def packed(notifiers: Sequence[Notifier]) -> bytes:
    """`InvalidInput` for one that cannot travel to another process."""
    try:
        return bytes(cloudpickle.dumps(tuple(notifiers)))
    except Exception as error:  # noqa: BLE001 - what it says may hold a secret
        raise InvalidInput(
            f"notify: it cannot be pickled ({type(error).__name__}), and the endpoint's own process is to send with it. Open "
            "connections and the like in `send`"
        ) from None


def put(name: str, notifiers: bytes) -> None:
    _internal_kv_put(name, notifiers, overwrite=True, namespace=_NAMESPACE)


def remove(name: str) -> None:
    _internal_kv_del(name, namespace=_NAMESPACE)


def of(name: str) -> tuple[Notifier, ...]:
    """Raises what unpickling raises."""
    found = _internal_kv_get(name, namespace=_NAMESPACE)
    return () if found is None else tuple(cloudpickle.loads(found))


def tell(message: Message) -> list[str]:
    """All that are to be told of the endpoint that a message is about. Why it did not reach some."""
    failures: list[str] = []
    deliver(message, of(message.name), failures.append)
    return failures
