"""A cluster of own and bought machines whose clouds are made up."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from mlplat.cluster.hosts import Hosts
from mlplat.cluster.ledger import MachineLedger
from mlplat.cluster.router import OWN, Router
from mlplat.cluster.site import Site
from mlplat.cluster.spec import Spec, parse
from mlplat.testing.clock import ManualClock
from mlplat.testing.cloud import MadeUpCloud

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)
COMMANDS = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray")


def config(ledger: str = "/var/lib/mlplat/machines.db", **budget: Any) -> dict[str, Any]:
    """Two own hosts; bought machines from spot in two zones, then on demand."""
    return {
        "cluster_name": "lab",
        "max_workers": 12,
        "upscaling_speed": 100,
        "idle_timeout_minutes": 2,
        "provider": {
            "type": "external",
            "module": "mlplat.cluster.Provider",
            "ledger": ledger,
            "sites": {"cloud": {"type": "fake"}},
            "budget": budget,
        },
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {"hosts": ["h0"]}, "max_workers": 0},
            "onprem.gpu": {
                "resources": {"CPU": 8, "GPU": 4},
                "labels": {"site": "onprem"},
                "node_config": {"hosts": ["h1", "h2"]},
                "min_workers": 2,
                "max_workers": 2,
                "priority": 100,
            },
            "cloud.gpu": {
                "resources": {"CPU": 8, "GPU": 4},
                "labels": {"site": "cloud"},
                "node_config": {
                    "offers": [
                        {"name": "spot a", "site": "cloud", "price": 1.0, "spot": True, "node": {"zone": "a"}},
                        {"name": "spot b", "site": "cloud", "price": 1.2, "spot": True, "node": {"zone": "b"}},
                        {"name": "on demand", "site": "cloud", "price": 4.0, "node": {"zone": "any"}},
                    ]
                },
                "min_workers": 0,
                "max_workers": 10,
            },
        },
        **{f"{name}_commands": [] for name in COMMANDS},
    }


class Lab:
    """The clock, the cloud and the hosts go on; `start` is a head that comes up."""

    def __init__(self, folder: Path, **budget: Any) -> None:
        self.clock, self.cloud = ManualClock(NOON), MadeUpCloud()
        self.silent: set[str] = set()
        self.said: list[str] = []
        self.spec: Spec = parse(config(str(folder / "machines.db"), **budget))
        self._launches = count()
        self.ledger = MachineLedger(self.spec.ledger, self.spec.cluster)
        self.router = self.start()

    def start(self) -> Router:
        self.ledger.close()
        self.ledger = MachineLedger(self.spec.ledger, self.spec.cluster)
        tags = {row.machine: dict(row.tags) for row in self.ledger.open(OWN) if row.machine is not None}
        hosts = Hosts(tags, lambda host: host not in self.silent, self.clock)
        sites: dict[str, Site] = {"cloud": self.cloud, OWN: hosts}
        self.router = Router(
            self.spec.cluster,
            self.spec.budget,
            sites,
            self.ledger,
            self.clock,
            lambda: f"l{next(self._launches)}",
            self.said.append,
        )
        return self.router

    def close(self) -> None:
        self.ledger.close()
