"""The replica that callers reach: it holds the app, and every model that runs in no process of its own.

A new version of a name that is served already is loaded and warmed beside the old one, in the running replica, and
takes over between two requests: none is dropped. The replica itself is never updated in place by Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from uuid import uuid4

from pydantic import SecretStr
from ray import serve
from ray.serve.config import BackpressureConfig

from mlplat.clock import SystemClock
from mlplat.errors import MlplatError
from mlplat.home import home_id
from mlplat.serve import state
from mlplat.serve._ray import backbones, notifiers
from mlplat.serve._ray.settings import QUIET
from mlplat.serve.answer import Answerer
from mlplat.serve.app import App
from mlplat.serve.load import load
from mlplat.serve.log import PredictionLog
from mlplat.serve.lookup import Lookup
from mlplat.serve.metrics import Metrics
from mlplat.serve.served import Served
from mlplat.serve.servers import Servers
from mlplat.serve.shadow import Shadows
from mlplat.serve.shared import SharedAnswers
from mlplat.serve.shared_redis import connecting
from mlplat.serve.tokens import Gate
from mlplat.serve.watch import Watches

_SCALE_S = 1.0
_log = logging.getLogger(__name__)


@serve.deployment(
    name="ingress",
    num_replicas=1,
    max_ongoing_requests=256,
    max_queued_requests=1_024,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    health_check_period_s=5,
    logging_config=QUIET,
)
@serve.ingress()
class Ingress:
    """Holds what one home serves in one life of a cluster."""

    def __init__(self, home: str, cluster: str, servers: Servers, host: str) -> None:
        """`host` is where the proxy listens."""
        from mlplat.features.reader import open_reader

        self._home = Path(home)
        self._servers = servers
        self._cluster = cluster
        self._log = PredictionLog(self._home)
        online = None if servers.online is None else servers.online.get_secret_value()
        self._reader = open_reader(self._home, online)
        clock = self._clock = SystemClock()
        self._watches = Watches(clock, notifiers.tell)
        gate, metrics = Gate(self._home, clock, host=host), Metrics(self._log, self._watches)
        self._lookup = None if online is None else Lookup(self._reader)
        answerer = Answerer(reader=self._reader, log=self._log, clock=clock, new_id=new_ids(), lookup=self._lookup)
        self._shared = None if servers.shared_cache is None else _shared(self._home, servers.shared_cache)
        self._shadows = Shadows(answerer, clock)
        answerer = replace(answerer, count=metrics.failed, told=metrics.answered, mirror=self._shadows.offer)
        served = self._load({})
        self._app = App(
            answerer,
            served,
            gate=gate,
            metrics=metrics,
            on_start=self._start,
            on_stop=self._stop,
            home=home_id(self._home),
        )
        self._follow(served)
        metrics.watch(lambda: self._app.served, self._shadows, self._shared)
        self._refreshing = asyncio.Lock()

    def __serve_build_asgi_app__(self) -> App:
        return self._app

    async def refresh(self) -> dict[str, int]:
        """Serve what the home records now. Epochs by name."""
        async with self._refreshing:
            before = dict(self._app.served)
            served = await asyncio.to_thread(self._load, before)
            self._app.serve(served)
            self._follow(served)
        await self._let_go(before, served)
        return {name: one.table.epoch for name, one in served.items()}

    async def home(self) -> str:
        return str(self._home)

    async def unlike(self, servers: Servers) -> str | None:
        """What is said of this if it asks others."""
        return self._servers.unlike(servers)

    async def shadows(self) -> dict[str, dict[str, int]]:
        """The counts of each, by "NAME/SHADOW"."""
        return {f"{name}/{arm}": asdict(counts) for (name, arm), counts in self._shadows.counts.items()}

    async def tells(self, name: str) -> list[str]:
        """The kinds of those who are told of an endpoint. Raises what keeps this process from telling them."""
        return [type(one).__name__ for one in await asyncio.to_thread(notifiers.of, name)]

    async def flush_log(self) -> dict[str, int]:
        """Returns when every answer so far is in the log's files."""
        await asyncio.to_thread(self._log.flush)
        counters = self._log.counters()
        return {"appended": counters.appended, "written": counters.written, "dropped": counters.dropped}

    def _load(self, before: dict[str, Served]) -> dict[str, Served]:
        entries = [entry for entry in state.read(self._home).values() if entry.cluster == self._cluster]
        found = {}
        for entry in entries:
            share = None if self._shared is None else self._shared.of(entry.name)
            found[entry.name] = load(entry, backbones.connect, self._clock, before.get(entry.name), share)
        for served in found.values():
            for version in served.versions.values():
                with suppress(MlplatError):  # it is said to who asks for it
                    self._reader.prepare(version.signature.features, served.rules.keep)
        return found

    async def _let_go(self, before: dict[str, Served], after: dict[str, Served]) -> None:
        """Backbones that nobody asks any more answer what they were asked, and close."""
        kept = {id(v.backbone) for served in after.values() for v in served.versions.values()}
        for served in before.values():
            for version in served.versions.values():
                if id(version.backbone) not in kept:
                    await version.backbone.close()

    def _follow(self, served: dict[str, Served]) -> None:
        self._watches.follow({name: one.objective for name, one in served.items()})

    async def _scale(self) -> None:
        """Calls at once follow the number of replicas."""
        while True:
            await asyncio.sleep(_SCALE_S)
            found = [version.backbone for served in self._app.served.values() for version in served.versions.values()]
            scaled = [one for one in found if isinstance(one, backbones.Replicas) and one.scales]
            if not scaled:
                continue
            try:
                running = await asyncio.to_thread(backbones.running)
            except Exception as error:  # noqa: BLE001 - as long as nobody says how many there are, it stays as it was
                _log.warning("how many replicas there are is not known: %s", type(error).__name__)
                continue
            for one in scaled:
                one.follow(running.get(one.app, 0))

    def _start(self) -> None:
        # In an empty context: Ray Serve cancels what a request began when its caller leaves.
        loop = asyncio.get_running_loop()
        work = [self._watches.run(), self._scale()]
        if self._shared is not None:
            work.append(self._shared.run())
        self._tasks = [loop.create_task(one, context=contextvars.Context()) for one in work]

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._log.close()
        if self._lookup is not None:
            self._lookup.close()
        self._reader.close()


def _shared(home: Path, url: SecretStr) -> SharedAnswers:
    return SharedAnswers(connecting(url.get_secret_value(), home=home_id(home)))


def new_ids() -> Callable[[], str]:
    """Ids that no other process gives, and no restart gives again: a number behind what was random once, since to ask for
    randomness takes longer than to find an answer that is remembered."""
    prefix, numbers = uuid4().hex[:20], count()
    return lambda: f"{prefix}{next(numbers):x}"
