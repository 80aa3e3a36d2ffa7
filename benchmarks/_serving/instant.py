"""A server that answers at once whatever it is asked, for what the load generator costs by itself.

`python -m benchmarks._serving.instant PORT`
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"ready": true}'


class Instant(asyncio.Protocol):
    """Requests of one packet, one at a time."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
