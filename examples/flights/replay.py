"""A stretch of history through the live endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

import mlplat
from examples.flights import data, features
from mlplat.errors import MlplatError
from mlplat.serve.endpoint import Endpoint

ASKED = ["origin", "dest", "carrier", "tailnum", "hour", "weekday", "distance"]
STREAMS = ((features.departures, "departures"), (features.arrivals, "arrivals"), (features.weather, "weather"))
Row = dict[str, Any]
Moment = tuple[datetime, dict[str, list[Row]], list[Row]]


def replay(platform: mlplat.Platform, endpoint: Endpoint, flights: data.Flights) -> dict[str, float | None]:
    """Push each event when it happened, and ask about each flight at its scheduled departure.

    Time goes forward only: a replay that was cut off goes on behind the newest event that was pushed.
    """
    before = len(set(answers(platform.predictions(endpoint.name))["request_id"]))
    newest = max((t for source, _ in STREAMS if (t := platform.features.newest(source)) is not None), default=None)
    milliseconds: list[float] = []
    failed = 0
    for at, events, asked in timeline(flights):
        if newest is not None and at <= newest:
            continue
        for source, name in STREAMS:
            if events[name]:
                platform.features.push(source, events[name])
        for flight in asked:
            began = time.perf_counter()
            try:
                endpoint.predict([{name: flight[name] for name in ASKED}], at=at, request_id=flight["flight_id"])
            except MlplatError as error:
                failed += 1
                print(f"  {flight['flight_id']}: {error}")
            milliseconds.append((time.perf_counter() - began) * 1e3)
    taken = pl.Series(milliseconds, dtype=pl.Float64)
    return {
        "requests": before + len(milliseconds),
        "failed": failed,
        "p50_ms": taken.quantile(0.5),
        "p99_ms": taken.quantile(0.99),
    }


def timeline(flights: data.Flights) -> Iterator[Moment]:
    """The moments at which somebody asks, or the stretch ends: what happened since the one before, and who is asked about."""
    streams = {name: getattr(flights, name).to_dicts() for _, name in STREAMS}
    times = {name: source.time for source, name in STREAMS}
    at = dict.fromkeys(streams, 0)

    def until(moment: datetime) -> dict[str, list[Row]]:
        happened: dict[str, list[Row]] = {}
        for name, rows in streams.items():
            first = at[name]
            while at[name] < len(rows) and rows[at[name]][times[name]] <= moment:
                at[name] += 1
            happened[name] = rows[first : at[name]]
        return happened

    for (moment,), group in flights.schedule.group_by("scheduled_at", maintain_order=True):
        yield moment, until(moment), group.to_dicts()
    yield (end := datetime.max.replace(tzinfo=flights.schedule["scheduled_at"][0].tzinfo)), until(end), []


def answers(log: pa.Table) -> pl.DataFrame:
    """The prediction log, the first answer of each request."""
    frame = pl.from_arrow(log)
    assert isinstance(frame, pl.DataFrame)
    return (
        frame.unique("request_id", keep="first", maintain_order=True)
        if frame.width
        else pl.DataFrame({"request_id": []})
    )
