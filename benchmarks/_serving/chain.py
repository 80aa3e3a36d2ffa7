"""What one writes with Ray Serve as it comes: an ingress that asks a backbone, which batches. In a cluster of its own, with
default settings. `python -m benchmarks._serving.chain PORT MODEL` serves until its input ends."""

from __future__ import annotations

import logging
import sys
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import JSONResponse

ONGOING = 256  # the default of 5 would let no batch grow


@serve.deployment(max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 0})
class Model:
    def __init__(self, path: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._module = torch.load(path, weights_only=False)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def predict(self, rows: list[list[float]]) -> list[float]:
        import torch

        with torch.inference_mode():
            return [float(value) for value in self._module(torch.tensor(rows))[:, 0]]


@serve.deployment(max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 0})
class Ingress:
    def __init__(self, model: Any) -> None:
        self._model = model

    async def __call__(self, request: Request) -> JSONResponse:
        row = (await request.json())["row"]
        return JSONResponse({"probability": await self._model.predict.remote(row)})


def main() -> None:
    port, model = int(sys.argv[1]), sys.argv[2]
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(Ingress.bind(Model.bind(model)), name="chain", route_prefix="/")
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
