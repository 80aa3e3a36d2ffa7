"""What Prometheus is told of a cluster, and that each alert has something to look at and something to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from mlplat._ray.connect import free_port
from mlplat.cluster.hosts import Hosts
from mlplat.cluster.metrics import ClusterMetrics, serve
from mlplat.testing.lab import Lab

ROOT = Path(__file__).parents[2]
WORKER = {"ray-node-type": "worker"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(tmp_path, per_day=100.0)
    yield found
    found.close()


def told(lab: Lab) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(ClusterMetrics(lab.router, Hosts({}, lambda host: True, lab.clock)))
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def test_machines_money_and_what_clouds_did_by_themselves(lab: Lab) -> None:
    launch = lab.router.create(lab.spec.types["cloud.gpu"], WORKER, 3)
    lab.router.refresh()
    lab.clock.advance(timedelta(hours=2))
    now = told(lab)
    assert now['mlplat_cluster_machines{site="cloud",type="cloud.gpu"}'] == 3
    assert (now['mlplat_cluster_spent{window="hour"}'], now['mlplat_cluster_spent{window="day"}']) == (0, 6)
    assert now['mlplat_cluster_budget{window="day"}'] == 100
    assert 'mlplat_cluster_budget{window="hour"}' not in now
    assert (now["mlplat_cluster_budget_spent"], now["mlplat_cluster_lost_total"]) == (0, 0)
    lab.cloud.lose(launch.names[0])
    lab.router.refresh()
    lab.cloud.create({"zone": "any"}, {}, 1)
    lab.router.refresh()
    now = told(lab)
    assert (now["mlplat_cluster_lost_total"], now["mlplat_cluster_strangers_total"]) == (1, 1)
    lab.clock.advance(timedelta(hours=9, minutes=59))
    lab.router.refresh()
    assert told(lab)['mlplat_cluster_spent{window="day"}'] > 20


def test_hosts_that_do_not_answer_are_counted_and_it_is_told_by_http(lab: Lab) -> None:
    hosts = Hosts({}, lambda host: host == "h1", lab.clock)
    hosts.create({"hosts": ["h1", "h2", "h3"]}, {}, 1)
    port = free_port()
    serve(ClusterMetrics(lab.router, hosts), port, "127.0.0.1")
    said = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert "mlplat_cluster_hosts_silent 2.0" in said


def test_each_alert_looks_at_what_there_is_and_has_its_section_in_the_runbook(lab: Lab) -> None:
    (group,) = yaml.safe_load((ROOT / "clusters" / "alerts.yaml").read_text())["groups"]
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs" / "how-to" / "run-a-cluster.md").read_text(), re.MULTILINE)
    assert [rule["alert"] for rule in group["rules"]] != []
    assert {rule["alert"] for rule in group["rules"]} == set(sections)
    known = {name.partition("{")[0] for name in told(lab)} | {"mlplat_cluster_machines", "up"}
    rays = {"autoscaler_recently_failed_nodes", "autoscaler_pending_nodes"}
    for rule in group["rules"]:
        named = set(re.findall(r"\b(?:mlplat_cluster|autoscaler)_\w+|\bup\b", rule["expr"]))
        assert named
        assert named <= known | rays, rule["alert"]
