"""The apps made by hand on the cluster of the endpoint, each a replica of its own with the endpoint's settings. Import it only
after that cluster's Serve is up."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import httpx
from ray import serve

from benchmarks._serving.by_hand import Asgi, Kind, made
from benchmarks._serving.rig import NAME
from mlplat.serve._ray.settings import QUIET


@serve.deployment(
    name="by_hand", max_ongoing_requests=256, max_queued_requests=1_024, health_check_period_s=5, logging_config=QUIET
)
@serve.ingress()
class ByHand:
    def __init__(self, kind: Kind, home: str) -> None:
        self._app = made(kind, Path(home), NAME)

    def __serve_build_asgi_app__(self) -> Asgi:
        return self._app


def run(kind: Kind, home: Path, url: str) -> str:
    """The path that it answers at, below which its own begin, once the proxy at the URL knows it."""
    deployment = ByHand.options(ray_actor_options={"num_cpus": 0})  # type: ignore[attr-defined]
    serve.run(deployment.bind(kind, str(home)), name=kind, route_prefix=f"/{kind}")
    for _ in range(300):
        if httpx.get(f"{url}/{kind}/readyz", trust_env=False).status_code == 200:
            return f"/{kind}"
        sleep(0.1)
    raise RuntimeError(f"{url}/{kind} does not come up")
