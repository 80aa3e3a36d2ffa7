"""The composition root: `connect` opens the stores, starts Ray when something needs it, and hands out the rigs."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from mlplat import config, interrupts
from mlplat.clock import Clock, SystemClock
from mlplat.config import Environment, Settings
from mlplat.endpoints import Endpoints
from mlplat.errors import InvalidInput
from mlplat.features.catalogue import ModelUse
from mlplat.features.pool import OnFirstUse, Pool
from mlplat.features.store import FeatureStore
from mlplat.features.training_set import TrainingSet
from mlplat.home import home_format, open_home
from mlplat.improving import Improving
from mlplat.jobs.demand import Demand
from mlplat.jobs.lease import GaveWay, Lease
from mlplat.metadata.port import Metadata, ModelVersion
from mlplat.metadata.postgres import driver_url
from mlplat.notify import Notifier, listed
from mlplat.serve import state
from mlplat.serve.endpoint import alive
from mlplat.serve.listen import Listen
from mlplat.serve.servers import Servers
from mlplat.train import (
    Interrupted,
    ModelPromoter,
    Progress,
    Promotion,
    Science,
    TrainedModel,
    TrainSettings,
    progress_for,
    promote,
    train,
)
from mlplat.train.lineage import trained_on
from mlplat.train.measure import PromotionTest
from mlplat.train.notices import told
from mlplat.train.reproduce import Record, Reproduced, reproduce
from mlplat.train.science import Keep, Loop, Loss, Metric, Network, Optimizer
from mlplat.train.search.search import Search

if TYPE_CHECKING:
    from mlplat._ray.session import Session

DECISIONS_SHOWN = 10
LISTEN_S = 0.5


def connect(
    home: str | Path | None = None,
    *,
    ray: str | None = None,
    online: str | None = None,
    metadata: str | None = None,
    shared_cache: str | None = None,
    host: str | None = None,
    tls: str | Path | None = None,
    scratch: str | Path | None = None,
    tenant: str | None = None,
    clock: Clock | None = None,
) -> Platform:
    """Open a home (default `./.mlplat`, or MLPLAT_HOME) and return the platform on it. Use it in a `with`.

    `host` is the IPv4 address that endpoints listen on (or MLPLAT_HOST; default: 127.0.0.1, which only programs of this machine
    reach), and `tls` the PEM file of the certificate and key that they show there (or MLPLAT_TLS). `tenant` is for whom this
    process works, on a cluster that others use too (or MLPLAT_TENANT).

    `shared_cache` is a Redis by which endpoints share the answers of models that have processes of their own, with other clusters
    and over restarts (or MLPLAT_SHARED_CACHE); another one than the online store's, because a cache may forget.

    `scratch` is a folder of each machine's own disk, for a training's encoded rows (or MLPLAT_SCRATCH; default: in the home).

    Nothing else starts: Ray comes up when something needs it, on this machine, or joins `ray="auto"` or `"host:port"`. Raises
    `InvalidInput` for a wrong setting, `Refused` for one that would lose data, `NotYetAvailable` for what is not here yet.
    """
    interrupts.heed()
    env = config.environment()
    settings = config.load(
        env,
        home=None if home is None else str(home),
        ray=ray,
        online=online,
        metadata=metadata,
        shared_cache=shared_cache,
        host=host,
        tls=None if tls is None else str(Path(tls).expanduser().absolute()),
        scratch=None if scratch is None else str(scratch),
        tenant=tenant,
    )
    return Platform(settings, env, clock or SystemClock())


class TrainOptions(TypedDict, total=False):
    """What else `Platform.train` takes, for type checkers."""

    compute: str | Mapping[str, Any]
    settings: TrainSettings | None
    loss: Loss | None
    metrics: Mapping[str, Metric] | None
    optimizer: Optimizer | None
    loop: Loop | None
    keep: Keep
    final: bool
    progress: Progress | None
    notify: Notifier | Sequence[Notifier]
    priority: str


class Platform(Improving, Endpoints):
    """One process's access to a home. Its parts open when they are first used; `close` releases all of them."""

    def __init__(self, settings: Settings, env: Environment, clock: Clock) -> None:
        self._settings = settings
        self._env = env
        self._clock = clock
        self._servers = Servers(online=settings.online, shared_cache=settings.shared_cache)
        self._listen = Listen(host=settings.host, tls=settings.tls)
        self._session: Session | None = None
        self._starting = threading.Lock()
        self._closing = contextlib.ExitStack()
        self.home = open_home(settings.home_path)
        self.scratch = Path(settings.scratch) if settings.scratch else self.home / "cache"

    @cached_property
    def features(self) -> FeatureStore:
        """The feature store."""
        store = FeatureStore(
            self.home,
            clock=self._clock,
            pool=OnFirstUse(self._ray_pool),
            models=self._model_uses,
            online=self._online,
        )
        self._closing.callback(store.close)
        return store

    @cached_property
    def metadata(self) -> Metadata:
        """Runs, models, aliases and the ledger of decisions."""
        from mlplat.metadata.mlflow import MlflowMetadata

        store = MlflowMetadata(self.metadata_url, self.home / "mlflow")
        self._closing.callback(store.close)
        return store

    @property
    def _online(self) -> str | None:
        """The URL of the online store's server; it may hold a password."""
        url = self._settings.online
        return None if url is None else url.get_secret_value()

    @property
    def metadata_url(self) -> str:
        """What `mlflow ui --backend-store-uri` takes. It may hold a password: do not print that of a server."""
        url = self._settings.metadata
        return f"sqlite:///{self._database}" if url is None else driver_url(url.get_secret_value())

    @property
    def _database(self) -> Path:
        return self.home / "metadata.db"

    @overload
    def train(
        self, network: Network, data: TrainingSet, *, stop: None = ..., **options: Unpack[TrainOptions]
    ) -> TrainedModel: ...

    @overload
    def train(
        self, network: Network, data: TrainingSet, *, stop: Callable[[], bool], **options: Unpack[TrainOptions]
    ) -> TrainedModel | Interrupted: ...

    def train(
        self,
        network: Network,
        data: TrainingSet,
        *,
        compute: str | Mapping[str, Any] = "cpu:0",
        settings: TrainSettings | None = None,
        loss: Loss | None = None,
        metrics: Mapping[str, Metric] | None = None,
        optimizer: Optimizer | None = None,
        loop: Loop | None = None,
        keep: Keep = "program",
        final: bool = False,
        progress: Progress | None = None,
        notify: Notifier | Sequence[Notifier] = (),
        stop: Callable[[], bool] | None = None,
        priority: str = "normal",
    ) -> TrainedModel | Interrupted:
        """Train on `compute`: "cpu:0" in this process, "cpu:2" on two Ray workers of a core each, "gpu:8" on eight GPUs,
        {"workers": 2, "CPU": 4, "FPGA": 1} on what each of two workers gets.

        `network` is an architecture; or a class or function that makes a torch module, or a Keras model, of a `Shape`; or an
        estimator that fits and predicts, of scikit-learn, XGBoost, LightGBM or a class of your own. `loss`, `metrics`,
        `optimizer` and `loop` replace those of the settings' task (`mlplat.train.science` has their forms). A network of your
        own is kept as a program that needs none of its code, or with `keep="code"` as that. The model is registered under the
        name of the training set; nothing serves it before `promote`. `final` trains once more, on all rows, for as many epochs
        as were best.

        The same call again goes on with a run that was killed, failed or stopped. `stop` is asked several times a second: once
        it says yes, the run makes a checkpoint and returns `Interrupted`. `notify` is told how the run ended (`mlplat.notify`).
        On a cluster that others use too the workers come from its queue, by `priority` (`platform.jobs`): when others are to have
        them the run makes a checkpoint, waits, and goes on. MLPLAT_PLACE is where its rows are, for what bringing them costs.
        Raises `Refused` for a demand that the cluster can never hold, `Conflict` while another process runs the same training.
        """
        notifiers, shown = listed(notify), progress or progress_for(self._clock)

        def run(began: Callable[[str], None]) -> TrainedModel | Interrupted:
            science = Science(
                network=network, loss=loss, metrics=metrics or {}, optimizer=optimizer, loop=loop, keep=keep
            )
            demand, asked = Demand.parse(compute), stop or (lambda: False)

            def on(lease: Lease | None) -> TrainedModel | Interrupted:
                found = train(
                    data,
                    science,
                    settings or TrainSettings(),
                    demand=demand,
                    metadata=self.metadata,
                    home=self.home,
                    scratch=self.scratch,
                    clock=self._clock,
                    progress=shown,
                    final=final,
                    stop=asked if lease is None else lambda: lease.stop() or asked(),
                    began=began,
                    lease=lease,
                )
                if isinstance(found, Interrupted) and lease is not None and lease.stop() and not asked():
                    raise GaveWay
                return found

            reads = self._read_gb(data.path)
            return self._on_workers(on, demand, shown, name=data.name, priority=priority, data_gb=reads)

        return told(run, name=data.name, notifiers=notifiers, progress=shown)

    def promote(
        self,
        model: TrainedModel | ModelVersion | Search,
        *,
        to: str | None = None,
        promoter: ModelPromoter | None = None,
        tests: Sequence[PromotionTest] = (),
        force: tuple[str, str] | None = None,
    ) -> Promotion:
        """Put a model through the promoter's tests and your own, on rows that its training held out. The decision is recorded
        with what each test found, a hold too.

        It becomes candidate, and gold if the name has no gold yet. `promoter` has the limits. `force=(who, why)` overrules the
        policy and is recorded.
        """
        version = model if isinstance(model, ModelVersion) else model.version
        if to is not None and to != version.name:
            raise InvalidInput(
                f"to={to!r}: this model was trained as {version.name!r}; train it on a training set named {to!r}"
            )
        data = trained_on(version, metadata=self.metadata, home=self.home)
        return promote(
            version,
            data,
            home=self.home,
            metadata=self.metadata,
            clock=self._clock,
            promoter=promoter,
            tests=tests,
            force=force,
        )

    def reproduce(
        self,
        model: TrainedModel | ModelVersion | str,
        *,
        science: Science | None = None,
        progress: Progress | None = None,
    ) -> Reproduced:
        """Train a model again from its record, and compare the weights: the same on the same kind of machine. Nothing is
        registered. `science` is your own code, where it was made with some."""
        version, shown = self.version(model), progress or progress_for(self._clock)
        demand = Record.of(version, metadata=self.metadata, home=self.home).demand

        def on(lease: Lease | None) -> Reproduced:
            return reproduce(
                version,
                science=science,
                metadata=self.metadata,
                home=self.home,
                scratch=self.scratch,
                clock=self._clock,
                progress=shown,
                lease=lease,
            )

        return self._on_workers(on, demand, shown, name=f"{version.name} again", preemptible=False)

    def status(self) -> dict[str, Any]:
        """What there is, as JSON: models with their aliases, endpoints, the local cluster, the newest decisions."""
        from mlplat._ray.look import look

        recorded = self._recorded
        return {
            "home": str(self.home),
            "format": home_format(self.home),
            "views": {name: self.features.history(name)[-1].version for name in self.features.views()},
            "models": [self._model_status(name) for name in self.metadata.names()] if recorded else [],
            "endpoints": [
                {"name": e.name, "url": e.url, "version": e.version, "objective": e.objective, "alive": alive(e.url)}
                for e in state.read(self.home).values()
            ],
            "cluster": look(self.home),
            "decisions": [e.to_json() for e in self.metadata.decisions()[-DECISIONS_SHOWN:]] if recorded else [],
        }

    @property
    def session(self) -> Session:
        """The connection to Ray, made now if it is not there."""
        with self._starting:
            if self._session is None:
                from mlplat._ray.session import Session

                def start() -> Session:
                    return Session.start(self._settings.ray, home=self.home, env=self._env, tls=self._settings.tls)

                self._session = self._on_lasting_thread(start)
                self._closing.callback(self._session.close)
            return self._session

    def _on_lasting_thread(self, start: Callable[[], Session]) -> Session:
        """A cluster ends with the thread that started it, and a thread that pushes or backfills may end before this
        platform does."""
        if threading.current_thread() is threading.main_thread():
            return start()
        lasting = ThreadPoolExecutor(1, thread_name_prefix="mlplat-ray")
        self._closing.callback(lasting.shutdown)
        return lasting.submit(start).result()

    def keep(self) -> None:
        """Stay, with everything that this process serves, until Ctrl-C; other processes of this home may join its cluster."""
        self.session.share()
        if self._recorded:
            self.jobs.start()
        never = threading.Event()
        with contextlib.suppress(KeyboardInterrupt):
            while not never.wait(LISTEN_S):  # a wait without end may not hear the signal: libraries make it restart
                pass

    def close(self) -> None:
        """Release everything: pushed events reach their tables, and a cluster that was started here ends."""
        self._closing.close()

    def __enter__(self) -> Platform:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ray_pool(self) -> Pool:
        from mlplat.features._ray.pool import RayPool

        return RayPool(
            lambda: self.session,
            scope=hashlib.blake2b(str(self.home.resolve()).encode(), digest_size=6).hexdigest(),
            queue=lambda: self.jobs if self.session.shared else None,
        )

    @property
    def _recorded(self) -> bool:
        """Whether there may be records. A look makes no database, which takes seconds."""
        return self._settings.metadata is not None or self._database.exists()

    def _model_names(self) -> Sequence[str]:
        return self.metadata.names() if self._recorded else ()

    def _model_uses(self) -> Iterator[ModelUse]:
        """The registered models, with the training sets that they were made of. None where nothing was recorded yet."""
        for name in self._model_names():
            for version in self.metadata.versions(name):
                snapshot = self.metadata.run(version.run_id)["tags"].get("snapshot", "")
                yield ModelUse(name=name, version=version.version, snapshot=snapshot)

    def _model_status(self, name: str) -> dict[str, Any]:
        gold, candidate = self.metadata.alias(name, "gold"), self.metadata.alias(name, "candidate")
        return {
            "name": name,
            "versions": len(self.metadata.versions(name)),
            "gold": gold and gold.version,
            "candidate": candidate and candidate.version,
        }
