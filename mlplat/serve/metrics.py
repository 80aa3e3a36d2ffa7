"""What Prometheus is told of the endpoint. Its own registry: a process may hold several apps.

An answer is counted by its records in the prediction log, which know the arm and what became of the features; a request
that was refused, by the app. Label children are made once per arm and version, so that counting takes
microseconds.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlplat.serve.dispatch import Count
from mlplat.serve.log import PredictionLog, Record
from mlplat.serve.served import Served
from mlplat.serve.shadow import Shadows

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SEVERAL = "several"
"""The arm and version of a request whose rows had more than one."""
_LOST = ("missing", "expired")
_STATUS = "status."


@dataclass(frozen=True, slots=True)
class _Arm:
    """The children of one arm and version of an endpoint."""

    requests: Counter
    latency: Histogram
    rows: Counter


class Metrics:
    """Counts. Called by one event loop; reading is safe beside it."""

    def __init__(self, log: PredictionLog) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        arm = ("endpoint", "arm", "version")
        self._requests = Counter(
            "mlplat_requests", "Requests; those that were refused have no arm.", (*arm, "status"), registry=registry
        )
        self._rows = Counter("mlplat_rows", "Rows that were answered.", arm, registry=registry)
        self._latency = Histogram(
            "mlplat_latency_seconds",
            "From the body of a request to its answer.",
            arm,
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._features = Counter(
            "mlplat_feature_rows",
            "Rows that found no feature of a view, or only one that had expired.",
            ("endpoint", "view", "status"),
            registry=registry,
        )
        self._failures = Counter(
            "mlplat_arm_failures",
            "Rows that gold answered, because their arm failed or was late.",
            ("endpoint", "arm", "failure"),
            registry=registry,
        )
        self._in_flight = Gauge(
            "mlplat_in_flight", "Requests that are being read or answered.", ("endpoint",), registry=registry
        )
        registry.register(_LogCollector(log))
        self._arms: dict[tuple[str, str, str], _Arm] = {}
        self._views: dict[tuple[str, int], tuple[object, tuple[tuple[str, Counter, Counter], ...]]] = {}
        self._endpoints: dict[str, Gauge] = {}

    def watch(self, served: Callable[[], Mapping[str, Served]], shadows: Shadows) -> None:
        """Tell of caches and shadows too."""
        self._registry.register(_Watched(served, shadows))

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def in_flight(self, name: str) -> Gauge:
        child = self._endpoints.get(name)
        if child is None:
            child = self._endpoints[name] = self._in_flight.labels(name)
        return child

    def refused(self, name: str, status: int) -> None:
        self._requests.labels(name, "", "", str(status)).inc()

    def failed(self, name: str, count: Count) -> None:
        """Rows of an arm that gold answered."""
        self._failures.labels(name, count.arm, count.failure).inc(count.rows)

    def answered(self, records: Sequence[Record]) -> None:
        """A request, by all of its records."""
        name, whole = records[0].name, None
        for record in records:
            arms, version = record.columns["arm"], str(record.columns["version"][0])
            counts = {arms[0]: record.rows} if arms.count(arms[0]) == record.rows else Tally(arms)
            for arm, rows in counts.items():
                child = self._arm(name, arm, version)
                child.rows.inc(rows)
                whole = child if whole is None else self._arm(name, SEVERAL, SEVERAL)
            self._lost_features(record)
        assert whole is not None
        whole.requests.inc()
        whole.latency.observe(records[0].columns["latency_us"][0] / 1e6)

    def _lost_features(self, record: Record) -> None:
        for column, missing, expired in self._views_of(record):
            found = record.columns[column]
            for status, child in zip(_LOST, (missing, expired), strict=True):
                if count := found.count(status):
                    child.inc(count)

    def _views_of(self, record: Record) -> Sequence[tuple[str, Counter, Counter]]:
        key = record.name, record.columns["version"][0]
        schema, views = self._views.get(key, (None, ()))
        if schema is not record.schema:
            columns = [name for name in record.schema.names if name.startswith(_STATUS)]
            views = tuple((column, *self._children(record.name, column)) for column in columns)
            self._views[key] = record.schema, views
        return views

    def _children(self, name: str, column: str) -> tuple[Counter, Counter]:
        view = column.removeprefix(_STATUS)
        missing, expired = (self._features.labels(name, view, status) for status in _LOST)
        return missing, expired

    def _arm(self, name: str, arm: str, version: str) -> _Arm:
        key = (name, arm, version)
        found = self._arms.get(key)
        if found is None:
            requests, latency = self._requests.labels(*key, "200"), self._latency.labels(*key)
            found = self._arms[key] = _Arm(requests, latency, self._rows.labels(*key))
        return found


class _Watched:
    """Caches and shadows count for themselves; they are asked when somebody looks."""

    def __init__(self, served: Callable[[], Mapping[str, Served]], shadows: Shadows) -> None:
        self._served, self._shadows = served, shadows

    def collect(self) -> Iterator[Metric]:
        rows = CounterMetricFamily(
            "mlplat_cache_rows",
            "Rows that were asked for, by whether the answer was known.",
            labels=("endpoint", "result"),
        )
        held = GaugeMetricFamily("mlplat_cache_bytes", "What the answers that are kept take.", labels=("endpoint",))
        for name, served in self._served().items():
            if served.cache is not None:
                now = served.cache.counters()
                rows.add_metric((name, "hit"), now.hits)
                rows.add_metric((name, "miss"), now.misses)
                held.add_metric((name,), now.bytes)
        shown = CounterMetricFamily(
            "mlplat_shadow_requests",
            "Requests that a shadow was to be shown: eligible are sent or dropped, and those sent answered, failed or late.",
            labels=("endpoint", "arm", "state"),
        )
        for (name, arm), counts in self._shadows.counts.items():
            for state, value in asdict(counts).items():
                shown.add_metric((name, arm, state), value)
        yield from (rows, held, shown)


class _LogCollector:
    """The log counts for itself; it is asked when somebody looks."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        now = self._log.counters()
        for name, value, what in (
            ("appended", now.appended, "given to the prediction log"),
            ("written", now.written, "in files of the prediction log"),
            ("dropped", now.dropped, "that did not fit into the prediction log's buffer"),
        ):
            yield CounterMetricFamily(f"mlplat_log_rows_{name}", f"Rows {what}.", value=value)
        yield GaugeMetricFamily("mlplat_log_rows_waiting", "Rows in the prediction log's buffer.", value=now.waiting)
