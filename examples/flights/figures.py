"""What the main job measures of itself: seconds by stage, memory, quality; printed as it goes, and written as JSON."""

from __future__ import annotations

import json as json_
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import mlplat
from examples.flights.replay import ASKED
from mlplat.serve.endpoint import Endpoint

GIB = 2**30
SAMPLE_S = 1.0
ORDER = ("auc", "log_loss", "parity_features", "parity_max_abs_diff", "requests", "failed", "p50_ms", "p99_ms")


class Figures:
    """Collects the figures of one run."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._values: dict[str, Any] = {}
        self._peak_bytes = 0
        print(f"home: {home}")

    @contextmanager
    def stage(self, name: str, what: str = "") -> Iterator[None]:
        print(f"{name}{': ' if what else ''}{what}", flush=True)
        began = time.perf_counter()
        yield
        self._seconds[name] = round(time.perf_counter() - began, 2)
        print(f"  {self._seconds[name]:.1f} s", flush=True)

    def add(self, values: Mapping[str, Any]) -> None:
        self._values |= {name: value for name, value in values.items() if name in ORDER}

    @contextmanager
    def peak_memory(self) -> Iterator[None]:
        """Sample this process and all that it started, shared pages counted once."""
        stop = threading.Event()
        thread = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(
        self, platform: mlplat.Platform, endpoint: Endpoint, *, example: Mapping[str, Any], json: Path | None
    ) -> None:
        """Print the summary, and what to try next."""
        self._seconds["total"] = round(time.perf_counter() - self._began, 2)
        figures = {
            **{name: self._values[name] for name in ORDER},
            "seconds": self._seconds,
            "peak_gib": round(self._peak_bytes / GIB, 2),
        }
        if json is not None:
            json.write_text(json_.dumps(figures, indent=1) + "\n")
        body = json_.dumps(
            {"rows": [{name: example[name] for name in ASKED}], "at": example["scheduled_at"].isoformat()}
        )
        asked = "nothing asked in this run" if figures["p50_ms"] is None else LATENCY.format(**figures)
        print(
            SUMMARY.format(
                **figures,
                asked=asked,
                endpoint=endpoint,
                body=body,
                bin=_bin(),
                home=self._home,
                metadata=platform.metadata_url,
            )
        )

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_S):
            used = 0
            me = psutil.Process()
            for process in (me, *me.children(recursive=True)):
                try:
                    used += process.memory_full_info().pss
                except psutil.Error:  # it has just ended
                    continue
            self._peak_bytes = max(self._peak_bytes, used)


def _bin() -> str:
    """The folder of this environment's commands, as one would type it here; nothing if they are on the PATH."""
    folder = Path(sys.executable).parent
    if shutil.which("mlplat"):
        return ""
    return f"{folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}/"


LATENCY = "p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms"
SUMMARY = """
quality    AUC {auc:.4f}, log loss {log_loss:.4f} on flights the model never saw
parity     {parity_features} flights with other features online than offline, probabilities within {parity_max_abs_diff:.1e}
endpoint   {requests:,} requests, {failed} failed, {asked}
cost       {seconds[total]:.0f} s in all, {peak_gib:.1f} GiB at most

What next:
  ask it yourself (while it is up: --keep)
    curl {endpoint.url}/predict/{endpoint.name} -H 'content-type: application/json' -d '{body}'
  see what there is
    {bin}mlplat status --home {home}
  look at the runs
    {bin}mlflow ui --backend-store-uri {metadata}
"""
