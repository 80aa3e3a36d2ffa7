"""A bare ASGI app with the model inside, for uvicorn: the least that an endpoint of its own does. MODEL names the module."""

from __future__ import annotations

import os
from typing import Any

import orjson
import torch

torch.set_num_threads(1)
_module = torch.load(os.environ["MODEL"], weights_only=False)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    with torch.inference_mode():
        probability = float(_module(torch.tensor([orjson.loads(body)["row"]]))[0, 0])
    answer = orjson.dumps({"probability": probability})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})
