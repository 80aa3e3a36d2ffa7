"""Redis, or a Redis Cluster, as the online store: for more than one machine. The library is the extra `mlplat[redis]`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from mlplat.clock import US_PER_S
from mlplat.errors import Conflict, InvalidInput, Unavailable
from mlplat.features.codec import view_prefix
from mlplat.features.online import Change, Lifetime

GRACE_MS = 86_400_000
"""How much longer than its lifetime a blob stays, so that a read can tell expired from missing."""
TIMEOUT_S = 2.0
"""For one answer of the server; `?socket_timeout=` in the URL wins."""
BATCH = 500
ATTEMPTS = 100

# Sets a key if it still holds what the caller saw, by its SHA-1 (empty: nothing); 1 if it did. The last arguments are the
# lifetime in milliseconds, counted from now if the event is older: history may be loaded long after it happened.
_SWAP = """
local old = redis.call('GET', KEYS[1])
if (old and redis.sha1hex(old) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] then
  local from = math.max(tonumber(ARGV[3]), redis.call('TIME')[1] * 1000)
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', from + ARGV[4]))
end
return 1
"""


class RedisStore:
    """One home's part of a Redis, apart from others' by `space`, which all keys begin with.

    An update is atomic per key, not as a whole: a script swaps one key's blob for its successor if no other writer was
    faster, and those that lost are made again from what is there now. So it works in a cluster, where keys live on
    different nodes. `redis+cluster://` says that it is one. Blobs of views with a time-to-live expire.
    """

    def __init__(self, url: str, *, space: str) -> None:
        self._shown = without_secrets(url)
        self._space = space.encode() + b"/"
        self._cluster = "+cluster" in urlsplit(url).scheme
        self._closed = False
        with self._answering():
            self._client = _client(url, cluster=self._cluster)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._answering():
            return self._read([self._space + key for key in keys])

    def update(self, keys: Sequence[bytes], change: Change, *, lifetimes: Sequence[Lifetime | None] = ()) -> None:
        ours = [self._space + key for key in keys]
        expiries = [_expiry(lifetime) for lifetime in lifetimes] or [()] * len(ours)
        with self._answering():
            seen = self._read(ours)
        todo = list(range(len(ours)))
        for _ in range(ATTEMPTS):
            made = list(zip(ours, seen, change(list(seen)), expiries, strict=True))
            todo = [i for i in todo if made[i][1] != made[i][2]]
            with self._answering():
                swapped = self._swap([made[i] for i in todo])
                todo = [i for i, done in zip(todo, swapped, strict=True) if not done]
                for i, blob in zip(todo, self._read([ours[i] for i in todo]), strict=True):
                    seen[i] = blob
            if not todo:
                return
        raise Conflict(f"{len(todo)} blobs at {self._shown} were changed by others {ATTEMPTS} times; try again")

    def delete(self, view: str, version: str) -> None:
        prefix = self._space + view_prefix(view, version)
        with self._answering():
            found: list[bytes] = []
            for key in self._client.scan_iter(match=prefix + b"*", count=1_000):
                found.append(key)
                if len(found) == BATCH:
                    self._remove(found)
                    found = []
            self._remove(found)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if self._closed:
            raise Unavailable(f"the online store at {self._shown} is closed; open the home again")
        try:
            yield
        except (_library().RedisError, OSError) as error:
            raise Unavailable(f"the online store at {self._shown} does not answer as it should: {error}") from None

    def _read(self, keys: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for at in range(0, len(keys), BATCH):
            batch = keys[at : at + BATCH]
            if self._cluster:
                pipeline = self._client.pipeline(transaction=False)
                for key in batch:
                    pipeline.get(key)
                found += pipeline.execute()
            else:
                found += self._client.mget(batch)
        return found

    def _swap(self, changes: list[tuple[bytes, bytes | None, bytes, tuple[int, ...]]]) -> list[bool]:
        """Of (key, old, new, expiry): whether the key still had the old blob, and has the new one now."""
        done: list[bool] = []
        for at in range(0, len(changes), BATCH):
            pipeline = self._client.pipeline(transaction=False)
            for key, old, new, expiry in changes[at : at + BATCH]:
                pipeline.execute_command("EVAL", _SWAP, 1, key, _digest(old), new, *expiry)
            done += map(bool, pipeline.execute())
        return done

    def _remove(self, keys: list[bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.unlink(key)
        pipeline.execute()


def _library() -> Any:
    """Loaded when a Redis is used, and not before."""
    try:
        import redis
    except ModuleNotFoundError:
        raise InvalidInput("online=...: Redis needs its library: pip install 'mlplat[redis]'") from None
    return redis


def _client(url: str, *, cluster: bool) -> Any:
    redis = _library()
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 1),  # for a connection that the server has closed
    }
    try:
        if cluster:
            return redis.RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
        return redis.Redis.from_url(url, **options)
    except ValueError as error:
        raise InvalidInput(f"online={without_secrets(url)!r}: {error}") from None


def without_secrets(url: str) -> str:
    """The URL without user, password and options: fit for a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _digest(blob: bytes | None) -> bytes:
    return b"" if blob is None else hashlib.sha1(blob, usedforsecurity=False).hexdigest().encode()


def _expiry(lifetime: Lifetime | None) -> tuple[int, ...]:
    if lifetime is None:
        return ()
    per_ms = US_PER_S // 1_000
    return lifetime.event_us // per_ms, -(-lifetime.ttl_us // per_ms) + GRACE_MS
