"""What Ray is told when a cluster of our own starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlplat._ray import flags
from mlplat._ray.connect import _own_haproxy


def test_clusters_on_one_machine_get_ports_of_their_own() -> None:
    def ports(pid: int) -> range:
        found = flags.local(haproxy=True, token=Path("t"), pid=pid, stats_port=1, metrics_port=2)
        low, high = (int(found[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
        return range(low, high + 1)

    assert not set(ports(1234)) & set(ports(1235))
    assert max(ports(1299)) < 32_768  # where Linux takes its own ports from


def test_what_a_job_was_submitted_with_is_not_set_again() -> None:
    wanted = flags.shared(haproxy=True)
    assert "RAY_SERVE_ENABLE_HA_PROXY" in wanted
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in flags.missing(wanted, {"RAY_SERVE_ENABLE_HA_PROXY": "0"})


def test_without_haproxy_its_flags_are_not_set() -> None:
    assert not [name for name in flags.shared(haproxy=False) if "HA" in name.split("_")[2:4]]


def test_a_second_home_does_not_need_the_first_ones_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for home in (one, two):
        (home / "ray").mkdir(parents=True)
    for name, script in _own_haproxy(one, None).items():
        monkeypatch.setenv(name, script)
    shutil.rmtree(one)
    (script,) = _own_haproxy(two, None).values()
    assert str(one) not in Path(script).read_text()
