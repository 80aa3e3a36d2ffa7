"""Processes of a version come and go with its work, and share a device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mlplat
from mlplat.clock import SystemClock
from mlplat.errors import InvalidInput, MlplatError, Refused, Unavailable
from mlplat.model import mlp
from mlplat.train import TrainSettings
from mlplat.train.progress import Silent
from tests.ray.sold import sold

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SETTINGS = TrainSettings(epochs=1, holdout_s=10 * 24 * 3600, batch_size=512)


@pytest.fixture(scope="module")
def platform(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlplat.Platform]:
    """Two versions that take some milliseconds for a hundred rows."""
    with mlplat.connect(tmp_path_factory.mktemp("scaling")) as platform:
        data = sold(platform)
        for width in (1_024, 1_000):
            model = platform.train(mlp((width, width)), data, settings=SETTINGS, progress=Silent())
            platform.promote(model, force=("a", "test"))
        platform.serve("sold")
        yield platform
        platform.undeploy("sold")


def replicas() -> int:
    """Of all versions of the endpoint."""
    from mlplat.serve._ray import backbones

    return sum(count for app, count in backbones.running().items() if "-sold-" in app)


def answers(endpoint: mlplat.Endpoint) -> int | None:
    """The version that does. None: on a slow machine the first replica is not there in time, and the caller is told so."""
    try:
        return endpoint.predict([{"size": 0.5}])[0].version
    except Unavailable:
        return None


def until(true: Callable[[], bool], *, within_s: float = 40.0) -> None:
    clock = SystemClock()
    deadline_s = clock.elapsed_s() + within_s
    while not true():
        assert clock.elapsed_s() < deadline_s
        threading.Event().wait(0.1)  # a loop without a pause would take the core that a replica needs to start


def test_replicas_come_with_work_and_go_to_none_without_and_the_first_request_gets_an_answer(
    platform: mlplat.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlplat.serve._ray.backbones as backbones

    monkeypatch.setattr(backbones, "IDLE_S", 5.0)
    endpoint = platform.serve("sold", compute="cpu:0-2", cache_bytes=0)
    assert platform.arms("sold")["compute"].to_list() == ["cpu:0-2"]
    stop, failures = threading.Event(), []

    def ask() -> None:
        rows = [{"size": 0.01 * i} for i in range(100)]
        while not stop.is_set():
            try:
                endpoint.predict(rows)
            except MlplatError as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: replicas() == 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    until(lambda: replicas() == 0)
    until(lambda: answers(endpoint) == 1)


def test_several_versions_share_a_device_by_fractions_and_another_demand_is_another_process(
    platform: mlplat.Platform,
) -> None:
    free = platform.session.available()["FPGA"]

    def taken() -> float:
        return float(free - platform.session.available()["FPGA"])

    endpoint = platform.serve("sold", compute={"FPGA": 0.25})  # the same version as before, in other processes
    platform.experiment("sold", "sold@2", share=0.5, compute={"FPGA": 0.5})
    assert {p.version for i in range(20) for p in endpoint.predict([{"size": 0.1 * i}])} == {1, 2}
    until(lambda: taken() == pytest.approx(0.75))
    assert platform.arms("sold")["compute"].to_list() == ["1 x (0.25 FPGA)", "1 x (0.5 FPGA)"]
    platform.end("sold", "v2")


def test_what_can_never_start_is_refused(platform: mlplat.Platform) -> None:
    with pytest.raises(Refused, match="can never run here"):
        platform.serve("sold", compute={"workers": (0, 2), "FPGA": 9})
    with pytest.raises(InvalidInput, match="asks for no worker"):
        platform.serve("sold", compute={"workers": 0, "FPGA": 1})
