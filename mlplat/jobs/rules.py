"""What an operator has set: who shares, what is shared, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlplat.errors import InvalidInput
from mlplat.jobs.job import Amounts, Node, Pool, Tenant
from mlplat.jobs.policy import Policy
from mlplat.jobs.usage import Usage

POOL = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`pools` are the labels that nodes of each have; a node is in the first that it suits. `reserved` is how much of a pool what
    is outside of the queue, such as an endpoint's processes, may have at once: jobs borrow it while it is not asked for.
    `grace_s` is how long a job that was asked to stop may take; in `half_life_s` half of what tenants used is forgotten."""

    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    pools: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {POOL: {}})
    reserved: Mapping[str, Amounts] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    grace_s: float = 30.0
    half_life_s: float = Usage().half_life_s

    def __post_init__(self) -> None:
        if not self.pools:
            raise InvalidInput("pools: there must be one, as in {'default': {}} for all nodes")
        for name in self.reserved.keys() - self.pools.keys():
            raise InvalidInput(f"reserved: pool {name!r} is not one of {', '.join(self.pools)}")
        for name in ("grace_s", "half_life_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name}: {getattr(self, name):g} must be above 0")

    def divided(self, nodes: list[Node]) -> tuple[Pool, ...]:
        """The nodes by pool."""
        found: dict[str, list[Node]] = {name: [] for name in self.pools}
        for node in nodes:
            for name, labels in self.pools.items():
                if labels.items() <= node.labels.items():
                    found[name].append(node)
                    break
        return tuple(Pool(name=name, nodes=tuple(own)) for name, own in found.items())

    def to_json(self) -> dict[str, Any]:
        """Without the tenants, who are kept one by one."""
        said = asdict(replace(self, tenants={}))
        del said["tenants"]
        return said

    @classmethod
    def of_json(cls, said: Mapping[str, Any], tenants: Mapping[str, Tenant]) -> Rules:
        return cls(**{**said, "policy": Policy(**said["policy"])}, tenants=tenants) if said else cls(tenants=tenants)
