"""Event tables at URLs. An object store must refuse to put a file that is there already: else two writers at once would
both believe that they had made the same version of a table, and the rows of one would be lost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from mlplat.config import environment, missing_credential
from mlplat.errors import InvalidInput, Refused, Unavailable
from mlplat.features.tables import EventTable

_KNOWN = ("s3", "gs", "az", "abfss")
_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
_OWN = (
    "_KEY_ID",
    "_ACCESS_KEY",
    "_SESSION_TOKEN",
    "_REGION",
    "_ENDPOINT_URL",
    "_APPLICATION_CREDENTIALS",
    "_ACCOUNT_NAME",
    "_ACCOUNT_KEY",
)


def table_at(url: str, *, variables: Mapping[str, str] | None = None) -> EventTable:
    """The event table at a URL such as `s3://bucket/folder`; credentials and endpoint come from the environment.

    Raises `InvalidInput` for a scheme that is not known or without credentials, `Refused` for a store that lets one
    writer overwrite another.
    """
    variables = environment().variables if variables is None else variables
    scheme = urlsplit(url).scheme
    if scheme not in _KNOWN:
        raise InvalidInput(f"table {url!r}: the scheme {scheme!r} is not one of {', '.join(_KNOWN)}")
    if remedy := missing_credential(scheme, variables):
        raise InvalidInput(f"table {url!r}: {remedy}")
    options = {name: value for name, value in variables.items() if name.startswith(_PREFIXES) and value}
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    _probe(url.rstrip("/"), tuple(sorted(options.items())))
    return EventTable(url.rstrip("/"), options)


@lru_cache(maxsize=1_000)
def _probe(url: str, options: tuple[tuple[str, str], ...]) -> None:
    """Put one small file twice, each time only if it is not there: the second must fail. Once per process and table."""
    name = f"_probe-{uuid4().hex}"
    try:
        store = from_url(url, config=_config(url, options), client_options={"allow_http": True})
        obstore.put(store, name, b"first", mode="create", use_multipart=False)
        safe = _refuses(store, name)
        obstore.delete(store, name)
    except (BaseError, OSError, ValueError) as error:
        raise Unavailable(f"table {url!r}: the object store did not answer as it should: {error}") from None
    if not safe:
        raise Refused(
            f"table {url!r}: this object store puts a file over one that is there, even when asked not to "
            "(If-None-Match), so two writers could lose each other's rows. Use one with conditional puts, such as S3, GCS, "
            "Azure or MinIO, or a local home."
        )


def _refuses(store: Any, name: str) -> bool:
    try:
        obstore.put(store, name, b"second", mode="create", use_multipart=False)
    except (AlreadyExistsError, PreconditionError):
        return True
    return False


def _config(url: str, options: tuple[tuple[str, str], ...]) -> Any:
    """What obstore would not find by itself, or would find otherwise: its own reading of the environment does the rest."""
    prefix = {"s3": "AWS_", "gs": "GOOGLE_"}.get(urlsplit(url).scheme, "AZURE_")
    return {name: value for name, value in options if name.startswith(prefix) and name.endswith(_OWN)}
