"""The caller's side of an endpoint: a thin HTTP client that speaks of rows and predictions."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Generic, TypeVar

import httpx
import orjson

from mlplat.errors import InvalidInput, MlplatError, NotFound, Refused, Unavailable

# Without it the server watches for the caller's leaving, which costs two tasks per request.
_HEADERS = {"x-request-disconnect-disabled": "?1", "content-type": "application/json"}
_ALIVE_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer for one row. `features` says by view whether they were "ok", "missing", "expired", or, of an online store
    that is a server, "late" or "unavailable": then they are null, unless the endpoint keeps what has expired.
    """

    id: str
    outputs: Mapping[str, Any]
    model: str
    version: int
    digest: str
    arm: str
    propensity: float
    features: Mapping[str, str]


Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class _Caller(Generic[Http]):
    """What the two clients have in common: all but waiting."""

    _client: Http

    def __init__(
        self,
        *,
        name: str,
        url: str,
        version: int | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        verify: str | ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.version = version
        self._client = self._connected(_options(self.url, token, timeout_s, verify))

    def _connected(self, options: dict[str, Any]) -> Http:
        raise NotImplementedError

    def _request(
        self, rows: Sequence[Mapping[str, Any]], at: datetime | str | None, request_id: str | None
    ) -> httpx.Request:
        headers = {} if request_id is None else {"x-request-id": request_id}
        return self._client.build_request("POST", f"/predict/{self.name}", content=_body(rows, at), headers=headers)

    def __repr__(self) -> str:
        version = "" if self.version is None else f"version {self.version}, "
        return f"{type(self).__name__}({self.name!r}, {version}POST {self.url}/predict/{self.name})"


class Endpoint(_Caller[httpx.Client]):
    """`name` is served at `url`, by `version` when this was made (None: not known here). Keeps its connection open: `close`
    it, or use it in a `with`. Thread-safe.

    `token` is what the endpoint asks for; it is never shown. `verify` is the path of the certificates to trust for an
    `https://` URL (default: those that come with httpx), or an SSL context.
    """

    def predict(
        self, rows: Sequence[Mapping[str, Any]], *, at: datetime | str | None = None, request_id: str | None = None
    ) -> list[Prediction]:
        """One prediction per row, in order. `at` is the "now" of windows and time-to-live (default: now).
        `request_id` comes back in the answer and stands in the prediction log (default: a new one).

        Raises `InvalidInput` with the field's name, `NotFound` if the name is not served there, `Refused` if the token is
        not valid for it, `Unavailable` if nobody answers or the endpoint is overloaded.
        """
        try:
            return _predictions(self._client.send(self._request(rows, at, request_id)))
        except httpx.HTTPError as error:
            raise _no_answer(self.url, error) from None

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self, options: dict[str, Any]) -> httpx.Client:
        return httpx.Client(**options)


class AsyncEndpoint(_Caller[httpx.AsyncClient]):
    """`Endpoint` for an event loop: `await endpoint.predict(...)`, `async with`."""

    async def predict(
        self, rows: Sequence[Mapping[str, Any]], *, at: datetime | str | None = None, request_id: str | None = None
    ) -> list[Prediction]:
        """As `Endpoint.predict`."""
        try:
            return _predictions(await self._client.send(self._request(rows, at, request_id)))
        except httpx.HTTPError as error:
            raise _no_answer(self.url, error) from None

    async def close(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> AsyncEndpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _connected(self, options: dict[str, Any]) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)


def alive(url: str) -> bool:
    """Whether an endpoint of mlplat answers there now."""
    return epochs(url) is not None


def gone(url: str) -> bool:
    """Whether nobody answers there for certain. Who takes long to say so may be there."""
    try:
        return httpx.get(f"{url}/readyz", timeout=_ALIVE_TIMEOUT_S, trust_env=False, verify=False).status_code != 200
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        return False


def epochs(url: str, home: str | None = None) -> Mapping[str, int] | None:
    """What is served there: the epoch of its table by name; None if nobody answers, or another than the `home` with this id."""
    try:
        # Whoever it is: nothing is sent, and what is answered are numbers.
        response = httpx.get(f"{url}/readyz", timeout=_ALIVE_TIMEOUT_S, trust_env=False, verify=False)
        ready = response.json() if response.status_code == 200 else {}
        return dict(ready["epochs"]) if home is None or ready["home"] == home else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _options(url: str, token: str | None, timeout_s: float, verify: str | ssl.SSLContext | None) -> dict[str, Any]:
    """How a client is made, sync or not."""
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"url {url!r}: it begins with http:// or https://")
    headers = dict(_HEADERS)
    if token is not None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidInput("token: this is no token; it is one word")  # what it is, no error may show
        headers["authorization"] = f"Bearer {token}"
    found: dict[str, Any] = {"base_url": url, "headers": headers, "timeout": timeout_s, "trust_env": False}
    if isinstance(verify, ssl.SSLContext):
        found["verify"] = verify
    elif verify is not None:
        try:
            found["verify"] = ssl.create_default_context(cafile=verify)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(f"verify={verify!r}: no certificates can be read there ({error})") from None
    return found


def _predictions(response: httpx.Response) -> list[Prediction]:
    if response.status_code != 200:
        raise _error(response)
    return [_prediction(value) for value in orjson.loads(response.content)["predictions"]]


def _no_answer(url: str, error: httpx.HTTPError) -> Unavailable:
    return Unavailable(f"the endpoint {url} does not answer: {error or type(error).__name__}")


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
        if response.status_code == 404:  # a proxy's own page: the process behind it is being replaced
            return Unavailable(f"nobody answers behind {response.request.url} now: {message}")
    if response.status_code == 404:
        return NotFound(message)
    if response.status_code == 401:
        return Refused(f"{message} (Endpoint(..., token=...))")
    if response.status_code in {408, 429, 500, 502, 503, 504}:
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
