"""What the provider of a cluster tells Prometheus: what is bought, what that has cost, and what its sites did by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlplat.cluster.hosts import Hosts
from mlplat.cluster.router import TYPE, Router


class ClusterMetrics:
    """A collector: it looks when it is asked. `certificate_ends` is when that does which the head shows; None: it has none."""

    def __init__(self, router: Router, hosts: Hosts, certificate_ends: datetime | None = None) -> None:
        self._router, self._hosts, self._ends = router, hosts, certificate_ends

    def collect(self) -> Iterable[Metric]:
        machines = GaugeMetricFamily(
            "mlplat_cluster_machines", "Machines that are there, by site and type", labels=["site", "type"]
        )
        found = Counter((site, seen.tags.get(TYPE, "")) for site, seen in self._router.by_site())
        for labels, count in sorted(found.items()):
            machines.add_metric(labels, count)
        yield machines
        spent = GaugeMetricFamily("mlplat_cluster_spent", "Money spent on bought machines so far", labels=["window"])
        limit = GaugeMetricFamily("mlplat_cluster_budget", "Money that may be spent", labels=["window"])
        for window, (so_far, most) in self._router.spending().items():
            spent.add_metric([window], so_far)
            if most is not None:
                limit.add_metric([window], most)
        yield spent
        yield limit
        closed = "1 while what was bought is given back, since the budget is spent"
        yield GaugeMetricFamily("mlplat_cluster_budget_spent", closed, value=bool(self._router.spent()))
        yield GaugeMetricFamily(
            "mlplat_cluster_hosts_silent", "Own hosts that do not answer", value=len(self._hosts.silent())
        )
        yield CounterMetricFamily(
            "mlplat_cluster_lost", "Bought machines that ended by themselves", value=self._router.lost
        )
        yield CounterMetricFamily(
            "mlplat_cluster_strangers", "Machines that were there and not written down", value=self._router.strangers
        )
        if self._ends is not None:
            when = "When the certificate ends that the head was started with, in seconds since the epoch"
            yield GaugeMetricFamily("mlplat_cluster_certificate_ends_seconds", when, value=self._ends.timestamp())


def serve(metrics: ClusterMetrics, port: int, host: str) -> None:
    """From now on, by HTTP."""
    registry = CollectorRegistry()
    registry.register(metrics)
    start_http_server(port, addr=host, registry=registry)
