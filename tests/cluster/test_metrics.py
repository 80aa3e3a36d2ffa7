"""What Prometheus is told of a cluster, and that each alert has something to look at and something to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT

from mlplat._ray.connect import free_port
from mlplat.cluster.hosts import Hosts
from mlplat.cluster.metrics import ClusterMetrics, serve
from mlplat.testing.lab import Lab

ROOT = Path(__file__).parents[2]
METRIC = re.compile(r"\b(?:mlplat_cluster|autoscaler)_\w+|\bup\b")
END = datetime(2027, 1, 1, tzinfo=UTC)
WORKER = {"ray-node-type": "worker"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(tmp_path, per_day=100.0)
    yield found
    found.close()


def told(lab: Lab) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(ClusterMetrics(lab.router, Hosts({}, lambda host: True, lab.clock), END))
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
    assert now["mlplat_cluster_certificate_ends_seconds"] == END.timestamp()
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
    for rule in group["rules"]:
        assert unknown(rule["expr"], lab) == set(), rule["alert"]


def test_each_panel_of_the_dashboard_and_each_port_that_is_scraped_is_one_of_ours(lab: Lab) -> None:
    board = json.loads((ROOT / "clusters" / "grafana.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert [expr for expr in targets if unknown(expr, lab)] == []
    assert {metric for expr in targets for metric in METRIC.findall(expr)} >= {
        name.partition("{")[0] for name in told(lab)
    }
    scraped, rays = yaml.safe_load((ROOT / "clusters" / "prometheus.yaml").read_text())["scrape_configs"]
    cluster = yaml.safe_load((ROOT / "clusters" / "onprem-burst-aws.yaml").read_text())
    own = cluster["provider"]["metrics"]
    assert scraped["static_configs"][0]["targets"] == [
        f"{own['host']}:{own['port']}",
        f"127.0.0.1:{AUTOSCALER_METRIC_PORT}",
    ]
    assert Path(rays["file_sd_configs"][0]["files"][0]) == Path("/tmp/ray", PROMETHEUS_SERVICE_DISCOVERY_FILE)
    assert f'up{{job="{scraped["job_name"]}"}}' in (ROOT / "clusters" / "alerts.yaml").read_text()


def unknown(expr: str, lab: Lab) -> set[str]:
    """The metrics that an expression names and nobody tells."""
    known = {name.partition("{")[0] for name in told(lab)} | {"mlplat_cluster_machines", "up"}
    named = set(METRIC.findall(expr))
    assert named
    return named - known - {"autoscaler_recently_failed_nodes", "autoscaler_pending_nodes"}
