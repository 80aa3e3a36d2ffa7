"""Machines of several sites as one cluster: own ones first, then what offers there are, within the budget. Whatever fails, and
whoever restarts in the middle, every machine that was made is written down, or found again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlplat.clock import US_PER_S, Clock
from mlplat.cluster.budget import decide, spent, window
from mlplat.cluster.ledger import Machine, MachineLedger
from mlplat.cluster.site import LAUNCH, NoCapacity, Seen, Site, Unknown
from mlplat.cluster.spec import Budget, NodeType, Offer
from mlplat.decision import Act
from mlplat.errors import InvalidInput, MlplatError, NotFound, Refused, Unavailable

OWN = "hosts"
"""The site of all own machines."""
PRICE, GPUS, OFFER, TYPE = "mlplat-price", "mlplat-gpus", "mlplat-offer", "mlplat-type"
"""Tags by which a machine tells what it is, if the ledger was lost."""
GIVE_BACK_S = 300.0
"""In so long work has made its checkpoint, its machine was idle and is gone."""
SETTLE_S = 180.0
"""A site may not list a machine for so long after it made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What became of a call. `why` has a line for each offer that gave fewer than it was asked for."""

    names: tuple[str, ...]
    pending: int
    missing: int
    why: tuple[str, ...]


class Router:
    """For several threads of one process: that of the head."""

    def __init__(
        self,
        cluster: str,
        budget: Budget,
        sites: Mapping[str, Site],
        ledger: MachineLedger,
        clock: Clock,
        new_launch: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        """`sites` by their names, with `OWN`. `new_launch` gives a name that no other call has."""
        self._cluster, self._budget = cluster, budget
        self._sites, self._ledger, self._clock = dict(sites), ledger, clock
        self._new_launch, self._say = new_launch, say
        self._lock = threading.RLock()
        self._seen: dict[str, dict[str, Seen]] = {name: {} for name in sites}
        """What each site said last."""
        self._ended_us: dict[str, int] = {}
        """When machines were given back, which their sites may list for a while."""
        self._asking: set[str] = set()
        """Launches whose site has not answered yet, however long it takes."""
        self.lost = self.strangers = 0
        """Bought machines that ended by themselves, and those that were there and not written down, since this began."""

    def refresh(self) -> Mapping[str, Seen]:
        """Ask all sites. Of one that does not answer, what it said last stands: its machines are not gone for that."""
        for name, site in self._sites.items():
            asked_us = self._clock.now_us()
            try:
                listed = dict(site.machines())
            except Unavailable as error:
                self._say(f"site {name}: {error}; its machines are taken to be as they were")
                continue
            with self._lock:
                self._settle(name, listed, asked_us)
                self._seen[name] = listed
        return self.seen()

    def seen(self) -> Mapping[str, Seen]:
        """All machines, as of the last `refresh` and what was done since."""
        with self._lock:
            return {machine: seen for listed in self._seen.values() for machine, seen in listed.items()}

    def by_site(self) -> Sequence[tuple[str, Seen]]:
        """The same, each with its site."""
        with self._lock:
            return [(site, seen) for site, listed in self._seen.items() for seen in listed.values()]

    def find(self, name: str) -> Seen | None:
        """One of them."""
        with self._lock:
            return next((listed[name] for listed in self._seen.values() if name in listed), None)

    def spent(self) -> str:
        """Why what was bought is to be given back, or nothing."""
        now_us = self._clock.now_us()
        bills = self._ledger.bills(window("month", now_us)[0], OWN)
        return spent(self._budget, bills, ahead_s=GIVE_BACK_S, now_us=now_us)

    def spending(self) -> Mapping[str, tuple[float, float | None]]:
        """This hour, day and month: what bought machines have cost so far, and what they may."""
        now_us = self._clock.now_us()
        bills = self._ledger.bills(window("month", now_us)[0], OWN)
        limits = {"hour": self._budget.per_hour, "day": self._budget.per_day, "month": self._budget.per_month}
        return {
            name: (sum(bill.spent(window(name, now_us)[0], now_us) for bill in bills), limit)
            for name, limit in limits.items()
        }

    def create(self, kind: NodeType, tags: Mapping[str, str], count: int) -> Launch:
        """Ask for so many machines, one offer after the other, until all are there or no offer is left."""
        names: list[str] = []
        pending, why = 0, []
        for offer in kind.offers or (Offer(site=OWN, price=0.0, node={"hosts": kind.hosts}),):
            left = count - len(names) - pending
            if left == 0:
                break
            made, unknown, said = self._bought(kind, offer, tags, left)
            names += made
            pending += unknown
            if said:
                why.append(f"{offer.name or offer.site}: {said}")
        missing = count - len(names) - pending
        if why:
            self._say(f"{count} x {kind.name}: got {len(names)}; {'; '.join(why)}")
        return Launch(names=tuple(names), pending=pending, missing=missing, why=tuple(why))

    def terminate(self, names: Sequence[str], heads: Callable[[Mapping[str, str]], bool]) -> None:
        """All of them but heads, of which nobody but the operator ends one. What a site did not do, its error says: then ask
        again."""
        error: MlplatError | None = None
        for site in self._sites:
            with self._lock:
                there = self._seen[site]
                own = [name for name in names if name in there and not heads(there[name].tags)]
            if kept := [name for name in names if name in there and name not in own]:
                self._say(f"{', '.join(kept)}: a head is not ended by its own cluster")
            if not own:
                continue
            try:
                self._sites[site].terminate(own)
            except MlplatError as failed:
                error = failed
                continue
            with self._lock:
                rows = [row.number for row in self._ledger.open(site) if row.machine in own]
                self._ledger.went(rows, "given back", self._clock.now_us())
                for name in own:
                    there.pop(name, None)
                    self._ended_us[name] = self._clock.now_us()
        if error is not None:
            raise error

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        site = self.site_of(name)
        self._sites[site].tag(name, tags)
        with self._lock:
            seen = self._seen[site].get(name)
            if seen is None:
                return
            both = {**seen.tags, **tags}
            self._seen[site][name] = Seen(tags=both, running=seen.running)
            for row in self._ledger.open(site):
                if row.machine == name:
                    self._ledger.tag(row.number, both)

    def address(self, name: str) -> str:
        """By which other nodes reach it. Raises `NotFound`."""
        return self._sites[self.site_of(name)].address(name)

    def site_of(self, name: str) -> str:
        """Raises `NotFound`."""
        with self._lock:
            for site, listed in self._seen.items():
                if name in listed:
                    return site
        raise NotFound(f"there is no machine {name!r}")

    def _bought(self, kind: NodeType, offer: Offer, tags: Mapping[str, str], count: int) -> tuple[list[str], int, str]:
        """The machines that were made, how many may have been, and why there are no more."""
        launch = self._new_launch()
        known = {TYPE: kind.name, OFFER: offer.name, PRICE: repr(offer.price), GPUS: repr(kind.gpus)}
        own_tags = {**tags, **known, LAUNCH: launch}
        with self._lock:
            numbers, said = self._asked(kind, offer, own_tags, launch, count)
            if not numbers:
                return [], 0, said
            self._asking.add(launch)
        try:
            made = list(self._sites[offer.site].create(offer.node, own_tags, len(numbers)))
        except Unknown as error:
            return [], len(numbers), f"{error}; {len(numbers)} may come"
        except (NoCapacity, Unavailable, InvalidInput, Refused) as error:
            self._ledger.went(numbers, str(error), self._clock.now_us())
            return [], 0, str(error)
        finally:
            self._asking.discard(launch)
        with self._lock:
            for number, name in zip(numbers, made, strict=False):
                self._ledger.came(number, name)
                self._ended_us.pop(name, None)
                self._seen[offer.site].setdefault(name, Seen(tags=own_tags, running=False))
            if short := numbers[len(made) :]:
                self._ledger.went(short, "its site made fewer", self._clock.now_us())
                said = said or f"only {len(made)} of {len(numbers)}"
        return made, 0, said

    def _asked(
        self, kind: NodeType, offer: Offer, tags: Mapping[str, str], launch: str, count: int
    ) -> tuple[list[int], str]:
        """As many as the budget has room for, written down; and why not all."""
        now_us = self._clock.now_us()
        machine = Machine(
            cluster=self._cluster,
            launch=launch,
            site=offer.site,
            type=kind.name,
            offer=offer.name,
            price=offer.price,
            gpus=kind.gpus,
            asked_us=now_us,
            tags=tags,
        )
        if offer.site == OWN:
            return self._ledger.ask(machine, count), ""
        bills = self._ledger.bills(window("month", now_us)[0], OWN)
        room, said = 0, ""
        while room < count:
            decision = decide(self._budget, bills, price=offer.price, gpus=kind.gpus, now_us=now_us)
            if not isinstance(decision, Act):
                said = decision.reason
                break
            bills.append(machine.bill)
            room += 1
        return self._ledger.ask(machine, room) if room else [], said

    def _settle(self, site: str, listed: dict[str, Seen], asked_us: int) -> None:
        """Bring the ledger and what a site has listed together. What is written down and not listed yet is added to `listed`, and
        what was given back is taken out."""
        settle_us = int(SETTLE_S * US_PER_S)
        old_us, later_us = asked_us - settle_us, asked_us + settle_us
        self._ended_us = {name: us for name, us in self._ended_us.items() if old_us < us <= later_us}
        for name in self._ended_us.keys() & listed.keys():
            del listed[name]
        rows = self._ledger.open(site)
        if ahead := [row.number for row in rows if row.asked_us > later_us]:  # the clock was set back
            self._ledger.redate(ahead, asked_us)
            rows = self._ledger.open(site)
        named = {row.machine: row for row in rows if row.machine is not None}
        waiting: dict[str, list[Machine]] = {}
        for row in rows:
            if row.machine is None:
                waiting.setdefault(row.launch, []).append(row)
        for name, seen in listed.items():
            if name in named:
                continue
            expected = waiting.get(seen.tags.get(LAUNCH, ""))
            if expected:
                self._ledger.came(expected.pop(0).number, name)
            else:
                self.strangers += 1
                self._ledger.adopt(self._stranger(site, name, seen, asked_us))
                self._say(f"site {site}: {name} is there and was not known; it is taken into the ledger")
        for name, row in named.items():
            if name in listed:
                continue
            if row.asked_us < old_us or (name in self._seen[site] and self._seen[site][name].running):
                self._ledger.went([row.number], "it ended at its site", asked_us)
                self.lost += site != OWN
            else:
                listed[name] = Seen(tags=row.tags, running=False)
        late = [row for left in waiting.values() for row in left if row.asked_us < old_us]
        never = [row.number for row in late if row.launch not in self._asking]
        if never:
            self._ledger.went(never, "it never came", asked_us)

    def _stranger(self, site: str, name: str, seen: Seen, now_us: int) -> Machine:
        return Machine(
            cluster=self._cluster,
            launch=seen.tags.get(LAUNCH, ""),
            site=site,
            type=seen.tags.get(TYPE, ""),
            offer=seen.tags.get(OFFER, ""),
            price=_number(seen.tags.get(PRICE, "0")),
            gpus=_number(seen.tags.get(GPUS, "0")),
            asked_us=now_us,
            tags=seen.tags,
            machine=name,
            state="there",
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
