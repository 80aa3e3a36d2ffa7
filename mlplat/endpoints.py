"""What a home serves: endpoints, and experiments and shadows beside gold."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from mlplat.callers import Callers
from mlplat.clock import US_PER_S, Clock
from mlplat.decision import Act, Decision
from mlplat.errors import InvalidInput, NotFound, Refused
from mlplat.features.definitions import duration_us
from mlplat.feedback import losses_of
from mlplat.jobs import demand as demands
from mlplat.jobs.demand import Demand
from mlplat.metadata.lock import exclusive
from mlplat.metadata.port import LedgerEntry, ModelVersion
from mlplat.model import artifact
from mlplat.notify import Notifier, listed
from mlplat.serve import live, state
from mlplat.serve import outcomes as kept
from mlplat.serve.advancing import keep_asking, same
from mlplat.serve.endpoint import alive
from mlplat.serve.gold_promoter import GoldPromoter
from mlplat.serve.http import BODY_S, MAX_BODY_BYTES, BodyLimits
from mlplat.serve.listen import Listen
from mlplat.serve.objective import Objective
from mlplat.serve.policy import FEATURES_S, Expired, FeaturePolicy, Missing
from mlplat.serve.servers import Servers
from mlplat.serve.state import Entry, Member
from mlplat.train import progress_for

if TYPE_CHECKING:
    from mlplat._ray.session import Session
    from mlplat.serve.endpoint import Endpoint
    from mlplat.train import TrainedModel

CACHE_BYTES = 64 << 20
GOLD_POLICY = "gold_promoter"


class Endpoints(Callers):
    """A part of `Platform`, which has the stores and Ray."""

    _closing: ExitStack
    _servers: Servers
    _listen: Listen

    _clock: Clock

    @property
    @abstractmethod
    def session(self) -> Session: ...

    def serve(
        self,
        name: str,
        *,
        port: int | None = None,
        compute: str | Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
        missing: Missing | Mapping[str, Missing] = "null",
        expired: Expired | Mapping[str, Expired] = "null",
        features_s: float = FEATURES_S,
        body_bytes: int = MAX_BODY_BYTES,
        body_s: float = BODY_S,
        objective: str | Literal["kept"] | None = "kept",
        notify: Notifier | Sequence[Notifier] | Literal["kept"] = "kept",
    ) -> Endpoint:
        """Serve the gold model of a name over HTTP, where `connect` says (on the loopback interface), and return when it answers.

        `compute`: None, the model runs in the endpoint's own process, which is fastest for models that answer in less than a
        millisecond; "cpu:2" gives it two processes of a core each, "cpu:1-4" as many as its work takes, "cpu:0-4" none while
        nobody asks, and {"GPU": 0.25} a quarter of a GPU. A name that is served already goes over to the present gold without
        losing a request; its experiments and shadows stay.

        `cache_bytes` of answers are kept by all that they depend on: the model and its inputs, features included. 0: none.

        `missing` and `expired` say what becomes of a row without features, or with ones older than their view's time-to-live,
        for all views or by view: "null", the model sees null, as in training; "refuse", the request is refused; and of
        expired ones "keep", the model sees them. A read from an online store that is a server may take `features_s`
        seconds: what is later is as good as missing.

        A request's body may have `body_bytes`, and `body_s` seconds to come whole. All of that holds until the next `serve` of
        the name, for every arm.

        `objective` is how fast it is to answer, such as "p99 < 50ms"; None: no matter. `notify` is told (`mlplat.notify`) when
        that is not kept, within seconds, and when it is again. "kept" leaves them as they are; a new cluster has to be given
        `notify` anew, because nothing of it is on disk.
        """
        policy = FeaturePolicy(missing=missing, expired=expired, features_s=features_s)
        body = BodyLimits(body_bytes=body_bytes, body_s=body_s)
        said = self._objective(name, objective)
        told = None if notify == "kept" else listed(notify)
        if told and said is None:
            raise InvalidInput('notify: there is nothing to tell without an objective, such as objective="p99 < 50ms"')
        gold = self.gold(name)
        if not (isinstance(missing, str) and isinstance(expired, str)):
            policy.check_views(self._views_read(name, gold))
        session = self.session  # before Serve is imported: it reads its settings then
        from mlplat.serve._ray import deploy

        endpoint = deploy(
            session,
            self.home,
            lambda: self._member("gold", "kept", self.gold(name), share=1.0, compute=compute),
            servers=self._servers,
            listen=self._listen,
            name=name,
            port=port,
            cache_bytes=cache_bytes,
            policy=policy,
            body=body,
            objective=said,
            notify=told,
        )
        self._closing.callback(endpoint.close)
        return endpoint

    def experiment(
        self,
        name: str,
        model: TrainedModel | ModelVersion | str,
        *,
        share: float,
        arm: str | None = None,
        compute: str | Mapping[str, Any] | None = None,
    ) -> None:
        """Let a version answer a share of the units of an endpoint: of the entities, or of the requests where a model knows none.
        Who is among 1 % is among 10 % too; everybody else is answered by gold.

        `arm` names it in answers and in the log (default: "v3" of version 3); the same arm again changes its share, or its
        version. If it fails or is late, gold answers, and that is counted against it. `compute` as in `serve`.
        """
        self._beside(name, "experiment", model, share=share, arm=arm, compute=compute)

    def shadow(
        self,
        name: str,
        model: TrainedModel | ModelVersion | str,
        *,
        share: float = 1.0,
        arm: str | None = None,
        compute: str | Mapping[str, Any] | None = "cpu:1",
    ) -> None:
        """Show a version what an endpoint is asked, or a share of the units, and log what it would have answered. Nobody
        waits for it: what it has no time for is dropped and counted. It has processes of its own."""
        if compute is None:
            raise InvalidInput('a shadow has processes of its own, so that nobody waits for it: compute="cpu:1"')
        self._beside(name, "shadow", model, share=share, arm=arm, compute=compute)

    def end(self, name: str, arm: str) -> None:
        """End an experiment or a shadow of an endpoint. Its units are gold's again."""
        session = self.session
        from mlplat.serve._ray import change

        change(session, self.home, name, lambda entry: entry.without(arm))

    def advance(self, name: str, arm: str, *, promoter: GoldPromoter | None = None) -> Decision:
        """Ask the gold promoter about an experiment, and do what it says: give it a larger share, make it gold, or end it. Call
        it as often as you like, from several processes: it holds until there is enough. Every decision is recorded with its
        evidence, holds too; the same one by the same evidence once."""
        policy = promoter or GoldPromoter()
        with exclusive(self.home / "locks" / f"advance.{name}"):
            entry = self._served(name)
            member = live.experiment_of(entry, arm)
            facts = live.facts_of(
                entry,
                arm,
                pl.DataFrame(self.predictions(name)),
                kept.read(self.features, self.home, name),
                losses_of(self._task(name)),
                alpha=policy.alpha,
            )
            decision = policy.decide(facts, now_us=self._clock.now_us())
            before = self._decided(name, arm)
            if before is not None and same(before, decision):
                decision = before
            else:
                self._record(name, member, decision, actor="platform")
            if isinstance(decision, Act):
                self._carry_out(name, live.unchanged(self._served(name), member), decision)
        return decision

    @contextmanager
    def advancing(
        self,
        name: str,
        *,
        every: str = "1m",
        promoter: GoldPromoter | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Iterator[Future[None]]:
        """`advance` every experiment of an endpoint so often, in a thread, as long as the `with` lasts. Each decision is told to
        `say` (default: standard error). While a store does not answer, that is told, and it goes on. Several of these on one
        home do no harm.

        What it gives is `done()` before the end only if it failed; the end of the `with` raises that. `NotFound` if the name is
        not served by a cluster that this process can join."""
        every_s = duration_us(every) / US_PER_S
        self._join(name)
        done = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="mlplat-advance") as pool:
            running = pool.submit(
                keep_asking,
                lambda: self._advanced(name, promoter),
                every_s=every_s,
                clock=self._clock,
                wait=done.wait,
                say=say or progress_for(self._clock).note,
            )
            try:
                yield running
            finally:
                done.set()
        running.result()

    def make_gold(self, name: str, model: TrainedModel | ModelVersion | str, *, who: str, why: str) -> None:
        """Make a version gold by hand, whatever the gold promoter would say. `who` and `why` are recorded."""
        if not who or not why:
            raise InvalidInput("who and why: both must be said")
        version = self.version(model)
        decision = Act(reason=f"by {who}: {why}", evidence={"action": "gold"})
        compute = self._served(name).compute if name in state.read(self.home) else None
        demand = None if compute is None else Demand.parse(compute, idle=True)
        member = self._member(
            "gold", "experiment", version, share=1.0, compute=None if demand is None else demand.to_json()
        )
        self._record(name, member, decision, actor=who)
        self._carry_out(name, member, decision)

    def rollback(self, name: str, *, who: str, why: str) -> None:
        """The version that was gold before is gold again, in an instant: it was kept ready. Recorded as `make_gold`."""
        entry = self._served(name)
        kept = next((m for m in entry.others if m.role == "kept"), None)
        if kept is None:
            raise Refused(
                f"{name!r} has no version that was gold before in this endpoint: use make_gold(name, VERSION)"
            )
        self.make_gold(name, self.metadata.version(name, kept.version), who=who, why=why)

    def arms(self, name: str) -> pl.DataFrame:
        """Who answers under a name, and who watches: `arm`, `role`, `version`, `share`, and `compute` (null: in the endpoint's
        process). One that is "kept" was gold before, and is ready to come back."""
        entry = self._served(name)
        gold, *others = entry.members()
        rows = [(gold.name, "gold", gold.version, entry.table().arms[0].share, gold.compute)]
        rows += [(m.name, m.role, m.version, m.share, m.compute) for m in others]
        said = [(*row[:4], None if row[4] is None else str(Demand.parse(row[4], idle=True))) for row in rows]
        schema = {"arm": pl.String, "role": pl.String, "version": pl.Int64, "share": pl.Float64, "compute": pl.String}
        return pl.DataFrame(said, schema=schema, orient="row")

    def undeploy(self, name: str) -> None:
        """Stop serving a name. Its log, its models and its aliases stay."""
        _ = self.session
        from mlplat.serve._ray import undeploy

        undeploy(self.home, name)

    def _beside(
        self,
        name: str,
        role: Literal["experiment", "shadow"],
        model: TrainedModel | ModelVersion | str,
        *,
        share: float,
        arm: str | None,
        compute: str | Mapping[str, Any] | None,
    ) -> None:
        self._served(name)
        version = self.version(model)
        if version.name != name:
            raise InvalidInput(f"version {version.version} is one of {version.name!r}, and not of {name!r}")
        if not 0.0 < share <= 1.0:
            raise InvalidInput(f"share={share!r} must be above 0 and at most 1; platform.end({name!r}, ARM) ends it")
        session = self.session
        from mlplat.serve._ray import change

        member = self._member(arm or f"v{version.version}", role, version, share=share, compute=compute)
        change(session, self.home, name, lambda entry: entry.with_member(member))

    def _member(
        self,
        arm: str,
        role: state.Role,
        version: ModelVersion,
        *,
        share: float,
        compute: str | Mapping[str, Any] | None,
    ) -> Member:
        demand = None if compute is None else Demand.parse(compute, idle=True)
        own = demand is not None and not demand.in_process
        if own and demand is not None:
            demands.check(replace(demand, least=max(1, demand.least)), self.session.total())
        return Member(
            name=arm,
            role=role,
            version=version.version,
            digest=version.digest,
            path=str(artifact.place(self.home.resolve(), version.name, version.digest)),
            share=share,
            compute=demand.to_json() if own and demand is not None else None,
        )

    def _views_read(self, name: str, gold: ModelVersion) -> set[str]:
        """By gold, and by who is beside it."""
        entry = state.read(self.home).get(name)
        numbers = {gold.version} | ({m.version for m in entry.others} if entry is not None else set())
        signatures = [self.load(self.metadata.version(name, number)).signature for number in sorted(numbers)]
        return {ref.view for signature in signatures for ref in signature.features}

    def _objective(self, name: str, given: str | None) -> str | None:
        if given == "kept":
            before = state.read(self.home).get(name)
            return None if before is None else before.objective
        return None if given is None else str(Objective.parse(given))

    def _served(self, name: str) -> Entry:
        found = state.read(self.home).get(name)
        if found is None:
            raise NotFound(f"{name!r} is not served: platform.serve({name!r}) first")
        return found

    def _join(self, name: str) -> None:
        """Open what a thread needs, here: what a thread opens may end with it."""
        entry = self._served(name)
        if not alive(entry.url):  # a cluster is not started for that
            raise NotFound(f"{name!r} is not served now: {entry.url} does not answer. platform.serve({name!r}) first")
        _ = self.features, self.metadata, self.session
        from mlplat.serve._ray import check_served

        check_served(entry)

    def _advanced(self, name: str, promoter: GoldPromoter | None) -> Iterator[tuple[str, Decision]]:
        for member in self._served(name).others:
            if member.role == "experiment":
                yield member.name, self.advance(name, member.name, promoter=promoter)

    def _decided(self, name: str, arm: str) -> Decision | None:
        """What was decided last about an experiment."""
        entries = reversed(self.metadata.decisions(name))
        return next((e.decision for e in entries if e.policy == GOLD_POLICY and e.details.get("arm") == arm), None)

    def _record(self, name: str, member: Member, decision: Decision, *, actor: str) -> None:
        """It is written down before it is done."""
        aliases = ["gold"] if _action(decision) == "gold" else []
        self.metadata.record(
            LedgerEntry(
                at_us=self._clock.now_us(),
                policy=GOLD_POLICY,
                subject=name,
                decision=decision,
                actor=actor,
                details={"version": member.version, "arm": member.name, "aliases": aliases},
            )
        )

    def _carry_out(self, name: str, member: Member, decision: Decision) -> None:
        """Twice does what once does."""
        action = _action(decision)
        if action is None:
            return
        session = self.session
        from mlplat.serve._ray import change

        if action == "gold":
            self.metadata.set_alias(name, "gold", member.version)
            if name in state.read(self.home):
                change(session, self.home, name, lambda entry: entry.with_gold(replace(member, role="kept")))
        elif action == "end":
            change(session, self.home, name, lambda entry: entry.without(live.unchanged(entry, member).name))
        else:
            share = float(decision.evidence["next_share"] or 0.0)
            change(
                session,
                self.home,
                name,
                lambda entry: entry.with_member(replace(live.unchanged(entry, member), share=share)),
            )


def _action(decision: Decision) -> str | None:
    return str(decision.evidence["action"]) if isinstance(decision, Act) else None
