"""The streams of events, and what is known of a flight at its scheduled departure."""

import polars as pl

from mlplat import features as F

departures = F.source("departures", key="origin", time="departed_at", id="flight_id")
arrivals = F.source("arrivals", key="tailnum", time="landed_at", id="flight_id")
weather = F.source("weather", key="origin", time="observed_at", id="weather_id")


@F.view(departures)
class airport:
    """How the airport has been doing."""

    departures_1h = F.count(window="1h")
    mean_delay_1h = F.mean("dep_delay", window="1h")
    mean_delay_3h = F.mean("dep_delay", window="3h")
    max_delay_1h = F.max("dep_delay", window="1h")


@F.view(departures, key="carrier")
class airline:
    """How the carrier has been doing."""

    departures_2h = F.count(window="2h")
    mean_delay_2h = F.mean("dep_delay", window="2h")
    mean_delay_1d = F.mean("dep_delay", window="1d")


@F.view(arrivals, key=("origin", "dest"))
class route:
    """How late those arrived that flew the same way."""

    arrivals_1d = F.count(window="1d")
    mean_delay_1d = F.mean("arr_delay", window="1d")
    mean_delay_14d = F.mean("arr_delay", window="14d")


@F.view(arrivals, ttl="2d")
class aircraft:
    """When and how late this very aircraft last landed."""

    delay: float = F.latest("arr_delay")
    age_s = F.age()


@F.view(weather, ttl="3h", actors=(1, 2))
class conditions:
    """The weather at the airport. Any Python, on a pool of actors."""

    temperature: float = F.field(ge=-60, le=130)
    wind: float = F.field(ge=0)
    gust: float = F.field(ge=0)
    precipitation: float = F.field(ge=0)
    visibility: float = F.field(ge=0)
    fog: bool

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(
            temperature="temp",
            wind="wind_speed",
            gust=pl.col("wind_gust").fill_null(0.0),
            precipitation="precip",
            visibility="visib",
            fog=pl.col("temp") - pl.col("dewp") < 4,
        )


views = [airport, airline, route, aircraft, conditions]
request = ["origin", "dest", "carrier", "hour", "weekday", "distance"]
