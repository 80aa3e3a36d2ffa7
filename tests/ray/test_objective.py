"""A latency objective on a real endpoint: a breach is told by the replica itself, and no secret is on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import mlplat
from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput
from mlplat.model import mlp
from mlplat.notify import Message, Webhook
from mlplat.serve import state
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.notify_servers import hook
from tests.ray.sold import sold

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SETTINGS = TrainSettings(epochs=1, holdout_s=10 * 24 * 3600, batch_size=128)
NOTICE_S = 10.0


@pytest.fixture(scope="module")
def platform(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlplat.Platform]:
    """A model without entities and features."""
    with mlplat.connect(tmp_path_factory.mktemp("objective")) as platform:
        data = sold(platform)
        platform.promote(platform.train(mlp((4,)), data, settings=SETTINGS, progress=Silent()), force=("a", "test"))
        yield platform
        platform.undeploy("sold")


def shown(url: str, metric: str) -> float | None:
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric + "{")), None)


def until(true: Callable[[], bool], *, within_s: float, meanwhile: Callable[[], object]) -> None:
    clock = SystemClock()
    deadline_s = clock.elapsed_s() + within_s
    while not true():
        assert clock.elapsed_s() < deadline_s
        meanwhile()


def test_a_breach_is_told_within_ten_seconds_and_no_secret_is_on_disk(
    platform: mlplat.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hook() as server:
        endpoint = platform.serve("sold", objective="p99 < 30s", notify=Webhook(server.url))
        for _ in range(20):
            endpoint.predict([{"size": 0.1}])
        until(lambda: shown(endpoint.url, "mlplat_objective_within") == 1.0, within_s=10, meanwhile=lambda: None)
        assert shown(endpoint.url, "mlplat_objective_breached") == 0.0
        assert server.bodies == []

        platform.serve("sold", objective="p50 < 0.001ms")  # it tells who was to be told before
        until(lambda: bool(server.bodies), within_s=NOTICE_S, meanwhile=lambda: endpoint.predict([{"size": 0.1}]))
        assert (server.bodies[0]["event"], server.bodies[0]["name"]) == ("breached", "sold")
        assert server.bodies[0]["facts"]["objective"] == "p50 < 0.001ms"
        assert shown(endpoint.url, "mlplat_objective_breached") == 1.0
        ready = httpx.get(f"{endpoint.url}/readyz", trust_env=False)
        assert ready.json()["ready"]
        assert platform.status()["endpoints"][0]["objective"] == "p50 < 0.001ms"
        import ray

        secret = server.url.partition("/services/")[2].encode()
        places = [platform.home, Path(ray._private.worker._global_node.get_session_dir_path())]
        files = [file for place in places for file in place.rglob("*") if file.is_file() and not file.is_socket()]
        assert not any(secret in file.read_bytes() for file in files)


def test_who_cannot_be_told_disturbs_nobody(platform: mlplat.Platform) -> None:
    with hook(404) as server:
        endpoint = platform.serve("sold", objective="p50 < 0.001ms", notify=[Webhook(server.url)])
        platform.serve("sold", objective="p50 < 0.002ms")
        until(
            lambda: bool(shown(endpoint.url, "mlplat_objective_notices_total")),
            within_s=NOTICE_S,
            meanwhile=lambda: endpoint.predict([{"size": 0.1}]),
        )


def test_an_objective_stays_until_it_is_taken_away(platform: mlplat.Platform) -> None:
    endpoint = platform.serve("sold", objective="p99 < 2s")
    platform.serve("sold", cache_bytes=0)
    assert state.read(platform.home)["sold"].objective == "p99 < 2000ms"
    platform.serve("sold", objective=None)
    assert state.read(platform.home)["sold"].objective is None
    assert shown(endpoint.url, "mlplat_objective_breached") is None


class Open:
    """Cannot travel: it holds a connection."""

    def __init__(self) -> None:
        self.client = httpx.Client()

    def send(self, message: Message) -> None: ...


def test_what_cannot_be_an_objective_or_tell_of_one_is_refused_before_anything_changes(
    platform: mlplat.Platform,
) -> None:
    platform.serve("sold", objective=None)
    before = state.read(platform.home)
    with pytest.raises(InvalidInput, match="objective='50ms' is not one"):
        platform.serve("sold", objective="50ms")
    with pytest.raises(InvalidInput, match="notify: a str is no notifier"):
        platform.serve("sold", objective="p99 < 1s", notify="https://hooks.here.org/s3cret")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="nothing to tell without an objective"):
        platform.serve("sold", notify=Webhook("https://hooks.here.org/x"))
    with pytest.raises(InvalidInput, match="cannot be pickled"):
        platform.serve("sold", objective="p99 < 1s", notify=Open())
    assert state.read(platform.home) == before
