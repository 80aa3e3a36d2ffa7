"""The caller's side of an endpoint: a thin HTTP client that speaks of rows and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import httpx
import orjson

from mlplat.errors import InvalidInput, MlplatError, NotFound, Unavailable

# Without it the server watches for the caller's leaving, which costs two tasks per request.
_HEADERS = {"x-request-disconnect-disabled": "?1", "content-type": "application/json"}
_ALIVE_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer for one row. `features` says by view whether they were "ok", "missing" (then they are null) or
    "expired".
    """

    id: str
    outputs: Mapping[str, Any]
    model: str
    version: int
    digest: str
    arm: str
    propensity: float
    features: Mapping[str, str]


class Endpoint:
    """`name` is served at `url` by `version`. Keeps its connection open: `close` it, or use it in a `with`.
    Thread-safe.
    """

    def __init__(self, *, name: str, url: str, version: int, timeout_s: float = 30.0) -> None:
        self.name = name
        self.url = url
        self.version = version
        self._client = httpx.Client(base_url=url, headers=_HEADERS, timeout=timeout_s, trust_env=False)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], *, at: datetime | str | None = None, request_id: str | None = None
    ) -> list[Prediction]:
        """One prediction per row, in order. `at` is the "now" of windows and time-to-live (default: now).
        `request_id` comes back in the answer and stands in the prediction log (default: a new one).

        Raises `InvalidInput` with the field's name, `NotFound` if the name is not served there, `Unavailable` if
        nobody answers or the endpoint is overloaded.
        """
        try:
            headers = {} if request_id is None else {"x-request-id": request_id}
            response = self._client.post(f"/predict/{self.name}", content=_body(rows, at), headers=headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"the endpoint {self.url} does not answer: {error or type(error).__name__}") from None
        if response.status_code != 200:
            raise _error(response)
        return [_prediction(value) for value in orjson.loads(response.content)["predictions"]]

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, version {self.version}, POST {self.url}/predict/{self.name})"


def alive(url: str) -> bool:
    """Whether an endpoint of mlplat answers there now."""
    return epochs(url) is not None


def epochs(url: str) -> Mapping[str, int] | None:
    """What is served there: the epoch of its table by name; None if nobody answers."""
    try:
        response = httpx.get(f"{url}/readyz", timeout=_ALIVE_TIMEOUT_S, trust_env=False)
        return dict(response.json()["epochs"]) if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _body(rows: Sequence[Mapping[str, Any]], at: datetime | str | None) -> bytes:
    # Not orjson: it would send NaN as null without a word.
    body = {"rows": rows} if at is None else {"rows": rows, "at": at}
    try:
        return json.dumps(body, allow_nan=False, default=_plain, separators=(",", ":")).encode()
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"the rows cannot be sent: {error}. Give null (None) for a missing value.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):  # numpy's scalars
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _error(response: httpx.Response) -> MlplatError:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    if response.status_code == 404:
        return NotFound(message)
    if response.status_code in {429, 500, 502, 503, 504}:
        return Unavailable(f"the endpoint {response.request.url} answered {response.status_code}: {message}")
    return InvalidInput(message)


def _prediction(value: Mapping[str, Any]) -> Prediction:
    model = value["model"]
    return Prediction(
        id=value["id"],
        outputs=value["outputs"],
        model=model["name"],
        version=model["version"],
        digest=model["digest"],
        arm=value["arm"],
        propensity=value["propensity"],
        features=value["features"],
    )
