"""A Redis as the server of shared answers. The library is the extra `mlplat[redis]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlplat.errors import InvalidInput
from mlplat.features.redis_store import without_secrets
from mlplat.serve.line import Connect


class RedisConnection:
    """One connection, without the pool and the pipelines of the library: these connect when they see fit, also for a call that
    was given up. `space` is what all keys begin with."""

    def __init__(self, wire: Any, space: bytes) -> None:
        self._wire, self._space = wire, space

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        await self._wire.send_command("MGET", *[self._space + key for key in keys])
        found: list[bytes | None] = await self._wire.read_response(disable_decoding=True)
        return found

    async def put(self, pairs: Sequence[tuple[bytes, bytes]], ttl_s: int) -> None:
        """All are sent before the first answer is read."""
        commands = [("SET", self._space + key, blob, "EX", ttl_s) for key, blob in pairs]
        await self._wire.send_packed_command(self._wire.pack_commands(commands))
        for _ in pairs:
            await self._wire.read_response()

    async def close(self) -> None:
        await self._wire.disconnect(nowait=True)


def connecting(url: str, *, home: str) -> Connect:
    """To the part of the home with this id, apart from its features and from other homes'. `InvalidInput` if that is no URL
    of a Redis, or there is no library for it; nothing is connected before it is asked for."""
    try:
        from redis.asyncio import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError:
        raise InvalidInput("shared_cache=...: Redis needs its library: pip install 'mlplat[redis]'") from None
    try:
        # Without a time limit: whoever calls has one.
        pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)
    except ValueError as error:
        raise InvalidInput(f"shared_cache={without_secrets(url)!r}: {error}") from None

    async def connect() -> RedisConnection:
        wire: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await wire.connect()
        except BaseException:
            await wire.disconnect(nowait=True)
            raise
        return RedisConnection(wire, f"{home}#answers/".encode())

    return connect
