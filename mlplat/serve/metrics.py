"""What Prometheus is told of the endpoint. Counts are plain numbers, made into its families when somebody looks: a request
touches six of them, and prometheus_client's own take a lock each.

An answer is counted by its parts, which know the arm and what became of the features; a request that was refused, by the
app.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mlplat.features.online import Status
from mlplat.serve.answer import Part
from mlplat.serve.dispatch import Count
from mlplat.serve.log import PredictionLog
from mlplat.serve.served import Served
from mlplat.serve.shadow import Shadows
from mlplat.serve.shared import SharedAnswers
from mlplat.serve.watch import Watches

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SEVERAL = "several"
"""The arm and version of a request whose rows had more than one."""
_ARM = ("endpoint", "arm", "version")
_LOST: tuple[Status, ...] = ("missing", "expired", "late", "unavailable")


@dataclass(slots=True)
class _Arm:
    """Of one arm and version of an endpoint. `buckets`: requests that took no longer than each of BUCKETS_S and longer than the
    one before, then the rest."""

    requests: int = 0
    rows: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))


class Metrics:
    """Counts. For one event loop. `watches` are told of latencies and failures too."""

    def __init__(self, log: PredictionLog, watches: Watches | None = None) -> None:
        self._watches = watches
        self._arms: dict[tuple[str, str, int | None], _Arm] = {}
        self._refused: Counter[tuple[str, str]] = Counter()
        self._lost: dict[tuple[str, str], list[int]] = {}
        self._failures: Counter[tuple[str, str, str]] = Counter()
        self._refused_rows: Counter[tuple[str, str, str]] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(_LogCollector(log))
        if watches is not None:
            self._registry.register(watches)

    def watch(
        self, served: Callable[[], Mapping[str, Served]], shadows: Shadows, shared: SharedAnswers | None = None
    ) -> None:
        """Tell of caches and shadows too."""
        self._registry.register(_Watched(served, shadows))
        if shared is not None:
            self._registry.register(shared)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def began(self, name: str) -> None:
        """A request: it ends with `ended`, whatever becomes of it."""
        self._in_flight[name] += 1

    def ended(self, name: str) -> None:
        self._in_flight[name] -= 1

    def refused(self, name: str, status: int) -> None:
        self._refused[name, str(status)] += 1
        if status >= 500 and self._watches is not None:
            self._watches.failed(name)

    def refused_features(self, name: str, counts: Mapping[tuple[str, Status], int]) -> None:
        """Rows by view and status, for which the policy refused a request."""
        for (view, status), rows in counts.items():
            self._refused_rows[name, view, status] += rows

    def failed(self, name: str, count: Count) -> None:
        """Rows of an arm that gold answered."""
        self._failures[name, count.arm, count.failure] += count.rows

    def answered(self, name: str, parts: Sequence[Part], latency_us: int) -> None:
        """A request, by all of its parts."""
        whole: _Arm | None = None
        for part in parts:
            arms = [assigned.arm.name for assigned in part.ask.arms]
            counts = {arms[0]: len(arms)} if arms.count(arms[0]) == len(arms) else Counter(arms)
            for arm, rows in counts.items():
                found = self._arm(name, arm, part.version.number)
                found.rows += rows
                whole = found if whole is None else self._arm(name, SEVERAL, None)
            for view, states in part.features.status.items():
                lost = self._lost.setdefault((name, view), [0] * len(_LOST))
                if states.count("ok") < len(states):
                    for i, status in enumerate(_LOST):
                        lost[i] += states.count(status)
        assert whole is not None
        whole.requests += 1
        whole.seconds += latency_us / 1e6
        whole.buckets[bisect_left(BUCKETS_S, latency_us / 1e6)] += 1
        if self._watches is not None:
            self._watches.answered(name, latency_us)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "mlplat_requests", "Requests; those that were refused have no arm.", labels=(*_ARM, "status")
        )
        rows = CounterMetricFamily("mlplat_rows", "Rows that were answered.", labels=_ARM)
        latency = HistogramMetricFamily(
            "mlplat_latency_seconds", "From the body of a request to its answer.", labels=_ARM
        )
        for (name, arm, number), counted in self._arms.items():
            labels = (name, arm, SEVERAL if number is None else str(number))
            requests.add_metric((*labels, "200"), counted.requests)
            rows.add_metric(labels, counted.rows)
            bounds = [*map(str, BUCKETS_S), "+Inf"]
            held = list(zip(bounds, accumulate(counted.buckets), strict=True))
            latency.add_metric(labels, buckets=held, sum_value=counted.seconds)
        for (name, status), count in self._refused.items():
            requests.add_metric((name, "", "", status), count)
        features = CounterMetricFamily(
            "mlplat_feature_rows",
            "Rows that were answered without features of a view as they should be: missing, expired, late or unavailable.",
            labels=("endpoint", "view", "status"),
        )
        for (name, view), lost in self._lost.items():
            for state, count in zip(_LOST, lost, strict=True):
                features.add_metric((name, view, state), count)
        refused_rows = CounterMetricFamily(
            "mlplat_refused_feature_rows",
            "Rows for whose features the endpoint's policy refused the request.",
            labels=("endpoint", "view", "status"),
        )
        for refused, count in self._refused_rows.items():
            refused_rows.add_metric(refused, count)
        failures = CounterMetricFamily(
            "mlplat_arm_failures",
            "Rows that gold answered, because their arm failed or was late.",
            labels=("endpoint", "arm", "failure"),
        )
        for found, count in self._failures.items():
            failures.add_metric(found, count)
        in_flight = GaugeMetricFamily(
            "mlplat_in_flight", "Requests that are being read or answered.", labels=("endpoint",)
        )
        for name, count in self._in_flight.items():
            in_flight.add_metric((name,), count)
        yield from (requests, rows, latency, features, refused_rows, failures, in_flight)

    def _arm(self, name: str, arm: str, number: int | None) -> _Arm:
        key = (name, arm, number)
        found = self._arms.get(key)
        if found is None:
            found = self._arms[key] = _Arm()
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
            "Requests that a shadow was to be shown: eligible are sent or dropped, those sent answered, failed, late or refused.",
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
