"""The provider that `clusters/*.yaml` name: Ray's autoscaler asks it for machines, and it asks the sites."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from ray._raylet import GcsClient
from ray.autoscaler._private.providers import _get_node_provider, _get_node_provider_cls
from ray.autoscaler.command_runner import CommandRunnerInterface
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.experimental.internal_kv import _initialize_internal_kv, _internal_kv_initialized

from mlplat._ray import flags
from mlplat.clock import SystemClock
from mlplat.cluster._ray.child import Child
from mlplat.cluster.certificates import ends
from mlplat.cluster.hosts import Alive, Hosts, answers
from mlplat.cluster.ledger import MachineLedger
from mlplat.cluster.metrics import ClusterMetrics, serve
from mlplat.cluster.router import OWN, Router
from mlplat.cluster.site import Site
from mlplat.cluster.spec import Budget, node_type, parse
from mlplat.config import LOOPBACK, environment
from mlplat.jobs._ray.cloud import publish
from mlplat.jobs.cloud import Cloud

log = logging.getLogger(__name__)
SSH = 22


class Provider(NodeProvider):  # type: ignore[misc]
    """As Ray (2.60) has it, for several threads. Nodes are listed once per `non_terminated_nodes`."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        clock = SystemClock()
        ledger = MachineLedger(provider_config["ledger"], cluster_name)
        tags = {r.machine: dict(r.tags) for r in ledger.open(OWN) if r.machine is not None}
        if head := provider_config.get("head"):
            tags.setdefault(head["host"], head_tags(head))
        sites: dict[str, Site] = {
            name: Child(_get_node_provider(given, cluster_name, use_cache=False))
            for name, given in provider_config.get("sites", {}).items()
        }
        hosts = sites[OWN] = Hosts(tags, self._alive(), clock)
        budget = Budget(**provider_config.get("budget", {}))
        self._sites = sites
        self._cloud = Cloud.of_json(given) if (given := provider_config.get("cloud")) else None
        self._published: Cloud | None = None
        self.router = Router(cluster_name, budget, sites, ledger, clock, lambda: uuid4().hex, log.warning)
        if (metrics := provider_config.get("metrics")) and on_head():
            variables = environment().variables
            end = ends(Path(variables[flags.SHOWN])) if flags.uses_tls(variables) else None
            serve(ClusterMetrics(self.router, hosts, end), metrics["port"], metrics.get("host", LOOPBACK))

    def _alive(self) -> Alive:
        return answers(self.provider_config.get("probe_port", SSH))

    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        found = self.router.refresh()
        self._publish()
        return [
            n for n, seen in found.items() if all(seen.tags.get(key) == value for key, value in tag_filters.items())
        ]

    def _publish(self) -> None:
        """On the head, what the queue of jobs may have."""
        if self._cloud is None or not on_head():
            return
        now = replace(self._cloud, closed=self.router.spent())
        if now != self._published:
            publish(now)
            self._published = now

    def is_running(self, node_id: str) -> bool:
        seen = self.router.find(node_id)
        return seen is not None and seen.running

    def is_terminated(self, node_id: str) -> bool:
        return self.router.find(node_id) is None

    def node_tags(self, node_id: str) -> dict[str, str]:
        seen = self.router.find(node_id)
        return {} if seen is None else dict(seen.tags)

    def set_node_tags(self, node_id: str, tags: Mapping[str, str]) -> None:
        self.router.tag(node_id, tags)

    def internal_ip(self, node_id: str) -> str:
        return self.router.address(node_id)

    def external_ip(self, node_id: str) -> str:
        site = self._sites[self.router.site_of(node_id)]
        return str(site.provider.external_ip(node_id)) if isinstance(site, Child) else site.address(node_id)

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        return self.create_node_with_resources_and_labels(node_config, tags, count, {}, {})

    def create_node_with_resources_and_labels(
        self,
        node_config: Mapping[str, Any],
        tags: Mapping[str, str],
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> dict[str, Any]:
        """Raises if there are fewer than asked for: Ray binds those that there are, and asks again for the others."""
        name = tags.get(TAG_RAY_USER_NODE_TYPE, "")
        kind = node_type(name, {"node_config": node_config, "resources": resources})
        launch = self.router.create(kind, tags, count)
        if launch.missing:
            said = f"{launch.missing} of {count} x {name}: {'; '.join(launch.why)}"
            raise NodeLaunchException("NotLaunched", said, sys.exc_info())
        return {name: {} for name in launch.names}

    def terminate_node(self, node_id: str) -> None:
        self.terminate_nodes([node_id])

    def terminate_nodes(self, node_ids: Sequence[str]) -> None:
        """On the head it ends no head: if its raylet dies first, Ray's autoscaler asks for that. `ray down` may."""
        here = on_head()
        self.router.terminate(node_ids, lambda tags: here and tags.get(TAG_RAY_NODE_KIND) == NODE_KIND_HEAD)

    def get_command_runner(
        self,
        log_prefix: str,
        node_id: str,
        auth_config: dict[str, Any],
        cluster_name: str,
        process_runner: ModuleType,
        use_internal_ip: bool,
        docker_config: dict[str, Any] | None = None,
    ) -> CommandRunnerInterface:
        """Of the site where the node is: some reach their machines otherwise than by ssh."""
        site = self._sites[self.router.site_of(node_id)]
        runner = site.provider.get_command_runner if isinstance(site, Child) else super().get_command_runner
        return runner(log_prefix, node_id, auth_config, cluster_name, process_runner, use_internal_ip, docker_config)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Checked, and with what the clouds need (networks, rights, keys) in the offers. `ray up` calls it."""
        spec = parse(cluster_config)
        config = copy.deepcopy(cluster_config)
        config["provider"]["cloud"] = spec.cloud.to_json()
        head = config["head_node_type"]
        if hosts := config["available_node_types"][head]["node_config"].get("hosts"):
            config["provider"]["head"] = {"host": hosts[0], "type": head}
        for site, given in config["provider"].get("sites", {}).items():
            _bootstrap(config, site, given)
        return config


def on_head() -> bool:
    """Whether this process is the autoscaler's, which then reaches the cluster's memory. Of its second version Ray (2.60) only
    tells it by an argument where that is."""
    if _internal_kv_initialized():
        return True
    address = next((word.partition("=")[2] for word in sys.argv if word.startswith("--gcs-address=")), "")
    if not address:
        return False
    _initialize_internal_kv(GcsClient(address=address))
    return True


def head_tags(head: Mapping[str, str]) -> dict[str, str]:
    return {
        TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
        TAG_RAY_USER_NODE_TYPE: head["type"],
        TAG_RAY_NODE_NAME: head["host"],
        TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
    }


def _bootstrap(config: dict[str, Any], site: str, given: dict[str, Any]) -> None:
    """Ray's own provider for the site is shown its offers as if each were a type of nodes, and fills them in."""
    offers = {
        f"{name}.{at}": offer
        for name, kind in config["available_node_types"].items()
        for at, offer in enumerate(kind["node_config"].get("offers", ()))
        if offer["site"] == site
    }
    if not offers:
        return
    types = {
        name: {"node_config": dict(offer["node"]), "resources": {}, "max_workers": 1} for name, offer in offers.items()
    }
    shown = {**config, "provider": given, "available_node_types": types, "head_node_type": next(iter(types))}
    filled = _get_node_provider_cls(given).bootstrap_config(shown)
    config["auth"] = filled.get("auth", config["auth"])
    given.update(filled["provider"])
    for name, offer in offers.items():
        offer["node"] = filled["available_node_types"][name]["node_config"]
