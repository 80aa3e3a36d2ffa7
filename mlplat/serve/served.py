"""What a name is answered by: its routing table, and the versions in it that are ready. Replaced as a whole, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlplat.errors import InvalidInput
from mlplat.model.signature import Field, Signature
from mlplat.serve.backbone import Backbone, Fused, Predictor
from mlplat.serve.cache import Cache
from mlplat.serve.dispatch import Singles
from mlplat.serve.http import LIMITS, BodyLimits
from mlplat.serve.log import Layout
from mlplat.serve.objective import Objective
from mlplat.serve.policy import FeaturePolicy, RefusedFeatures, Rules
from mlplat.serve.remembered import Remembered, Values
from mlplat.serve.request import Parser
from mlplat.serve.routing import RoutingTable
from mlplat.serve.shared import Share

EXPERIMENT_S = 0.25
DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A model version that is ready, with what every request to it needs, made once. `needed` are request fields that it
    cannot do without; `compute` what its own processes ask for, if it has some."""

    number: int
    digest: str
    signature: Signature
    backbone: Backbone
    layout: Layout
    inputs: tuple[Field, ...]
    needed: tuple[str, ...]
    remembered: Remembered | None = None
    compute: Mapping[str, Any] | None = None

    @property
    def remote(self) -> bool:
        """Whether processes of its own answer."""
        return not isinstance(self.backbone, Fused)

    @classmethod
    def of(
        cls,
        number: int,
        model: Predictor,
        backbone: Backbone | None = None,
        *,
        cache: Cache[Values] | None = None,
        shared: Share | None = None,
        compute: Mapping[str, Any] | None = None,
    ) -> Version:
        """`backbone` answers in the place of the model itself, `cache` what it has answered before, and `shared` what others
        with this model have."""
        signature, answering = model.signature, backbone or Fused(model)
        outputs = [field.name for field in signature.outputs]
        remembered = (
            None if cache is None else Remembered(answering, cache, digest=model.digest, outputs=outputs, shared=shared)
        )
        return cls(
            number=number,
            digest=model.digest,
            signature=signature,
            backbone=answering,
            remembered=remembered,
            layout=Layout.of(signature),
            inputs=signature.inputs(),
            compute=compute,
            needed=tuple(field.name for field in signature.request if field.required),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A name and who answers for it: a request sees one of these from its start to its end.

    `experiment_s`: so long an experiment may take before gold is asked in its place; `deadline_s`: so long gold may. `rules` are
    for the features of every version, `body` for what callers send.
    """

    name: str
    table: RoutingTable
    versions: Mapping[int, Version]
    parser: Parser
    cache: Cache[Values] | None = None
    cache_bytes: int = 0
    rules: Rules = field(default_factory=Rules)
    body: BodyLimits = LIMITS
    objective: Objective | None = None
    experiment_s: float = EXPERIMENT_S
    deadline_s: float = DEADLINE_S
    singles: Singles = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "singles", Singles(self.table))

    @classmethod
    def of(
        cls,
        name: str,
        table: RoutingTable,
        versions: Iterable[Version],
        *,
        policy: FeaturePolicy | None = None,
        **more: Any,
    ) -> Served:
        """`InvalidInput` if two versions cannot be asked by the same callers."""
        ready = {version.number: version for version in versions}
        gold = ready[table.arms[0].version]
        asked = together(gold.signature, [v.signature for v in ready.values()])
        views = {ref.view for version in ready.values() for ref in version.signature.features}
        rules = (policy or FeaturePolicy()).rules(views)
        return cls(name=name, table=table, versions=ready, parser=Parser(asked), rules=rules, **more)

    @property
    def gold(self) -> Version:
        return self.versions[self.table.arms[0].version]

    def refuses(self, why: RefusedFeatures) -> bool:
        """Whether gold would refuse too. What an experiment alone reads is for it alone to miss: gold answers then."""
        return any(ref.view in why.views for ref in self.gold.signature.features)


def together(gold: Signature, others: Iterable[Signature]) -> Signature:
    """What callers may send so that each of these can be asked: gold's fields, and those that only others know, which may be
    left out: then gold answers. `InvalidInput` if another has other entities, or another type of a field."""
    request = {field.name: field for field in gold.request}
    for other in others:
        if {f.name: f.dtype for f in other.entities} != {f.name: f.dtype for f in gold.entities}:
            raise InvalidInput(
                f"the entity keys are {[f.name for f in other.entities]}, and gold's {[f.name for f in gold.entities]}: "
                "callers of one endpoint send the same"
            )
        for one in other.request:
            known = request.setdefault(one.name, replace(one, required=False))
            if known.dtype != one.dtype:
                raise InvalidInput(f"request field {one.name!r} is {one.dtype}, and gold's is {known.dtype}")
    return replace(gold, request=tuple(request.values()))
