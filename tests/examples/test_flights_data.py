"""The events of the main job are those of the data set, each at the time when it was known."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from examples.flights import data

pytestmark = pytest.mark.slow  # reads the whole year


@pytest.fixture(scope="module")
def flights() -> data.Flights:
    return data.load()


def test_every_flight_is_in_the_schedule_once(flights: data.Flights) -> None:
    assert flights.schedule.height == flights.schedule["flight_id"].n_unique() == 336_776


def test_flights_that_never_got_a_label_have_none(flights: data.Flights) -> None:
    unlabelled = flights.schedule.filter(pl.col("late").is_null())
    assert unlabelled.height == 9_430
    assert unlabelled.join(flights.arrivals, on="flight_id", how="semi").height == 717


def test_no_flight_lands_before_it_left(flights: data.Flights) -> None:
    both = flights.arrivals.join(flights.departures, on="flight_id", how="inner")
    flown = both.select((pl.col("landed_at") - pl.col("departed_at")).alias("flown"))["flown"]
    assert both.height == flights.arrivals.height == 328_063
    assert flown.min() > timedelta(0)
    assert flown.quantile(0.5) < timedelta(hours=4)


def test_no_flight_finds_its_own_events_among_what_is_known_at_its_scheduled_departure(flights: data.Flights) -> None:
    for events, time in ((flights.departures, "departed_at"), (flights.arrivals, "landed_at")):
        known = events.join(flights.schedule, on="flight_id").select(
            (pl.col("scheduled_at") - pl.col(time)).alias("ahead")
        )
        # Windows end before the question, and `departed_at` is never earlier than it.
        assert known["ahead"].max() <= timedelta(0)
    landed = flights.arrivals.join(flights.schedule, on="flight_id")
    assert landed.filter(pl.col("landed_at") <= pl.col("scheduled_at")).is_empty()


def test_departures_are_known_when_the_flight_left(flights: data.Flights) -> None:
    both = flights.departures.join(flights.schedule, on="flight_id")
    delay = pl.max_horizontal(pl.col("dep_delay"), 0.0) * 60
    left = (pl.col("departed_at") - pl.col("scheduled_at")).dt.total_seconds()
    assert both.select((left == delay).all()).item()


def test_events_have_ids_of_their_own(flights: data.Flights) -> None:
    for events, name in (
        (flights.departures, "flight_id"),
        (flights.arrivals, "flight_id"),
        (flights.weather, "weather_id"),
    ):
        assert events[name].n_unique() == events.height
    assert flights.weather.height == 26_115


def test_a_cut_is_half_open(flights: data.Flights) -> None:
    week = flights.between(data.YEAR.live, data.YEAR.replayed)
    assert week.schedule.height >= 5_000
    assert week.schedule["scheduled_at"].min() >= data.YEAR.live
    assert week.departures["departed_at"].max() < data.YEAR.replayed
