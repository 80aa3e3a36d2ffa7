"""Times that come in, as microseconds UTC: with a zone of their own, or in the one that the source declares.

What is finer than a microsecond is floored, toward the past, on every path: an event is never moved past one that came
after it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlplat.clock import US_PER_S

TIME = pl.Datetime("us", "UTC")
_LOCAL = r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?"
_ISO_8601 = rf"{_LOCAL}(Z|[+-]([01]\d|2[0-3]):?[0-5]\d)"
UNREADABLE = "cannot be read as ISO 8601 with a zone, as in 2013-09-01T10:00:00Z"
OUTSIDE = "is outside the years 1 to 9999 in UTC"
NO_ZONE = "has no time zone; say which"
FIRST_US = -62_135_596_800_000_000
LAST_US = 253_402_300_799_999_999


def no_moment(zone: str) -> str:
    return f"is no single moment in {zone}, where the clock is put forward or back then: give it with its offset"


def localised(naive: pl.Series, zone: str) -> pl.Series:
    """Times without a zone as those of `zone`; null where a clock change skips the time or has it twice."""
    return (
        naive.dt.cast_time_unit("us")
        .dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
        .dt.convert_time_zone("UTC")
    )


def parsed(texts: pl.Series, zone: str | None) -> tuple[pl.Series, pl.Series]:
    """ISO 8601 text as times, null where it is none; and whether the text itself can be read."""
    full = texts.str.replace(" ", "T", literal=True).str.replace(r"T(\d\d:\d\d)([Z+-]|$)", "T${1}:00${2}")
    zoned = _read(full, texts.str.contains(f"^{_ISO_8601}$"), "%+", "UTC")
    if zone is None:
        return zoned, zoned.is_not_null()
    local = _read(full, texts.str.contains(f"^{_LOCAL}$"), "%Y-%m-%dT%H:%M:%S%.f", None)
    return zoned.zip_with(zoned.is_not_null(), localised(local, zone)), zoned.is_not_null() | local.is_not_null()


def _read(texts: pl.Series, where: pl.Series, form: str, zone: str | None) -> pl.Series:
    frame = pl.DataFrame({"text": texts, "where": where})
    read = pl.when("where").then("text").str.to_datetime(form, time_unit="us", time_zone=zone, strict=False)
    return frame.select(read).to_series()


def time_us(value: Any, zone: str | None = None) -> int | None:
    """One time, as microseconds; None for pandas' NaT. Raises `ValueError` or `TypeError` with what is wrong."""
    if isinstance(value, str):
        value = _from_text(value, zone)
    if not isinstance(value, datetime):
        raise TypeError(f"is {value!r}, and the table has timestamps")
    if value != value:
        return None
    if value.tzinfo is None:
        value = _from_local(value, zone)
    us = to_us(value)
    if not FIRST_US <= us <= LAST_US:
        raise ValueError(OUTSIDE)
    return us


def _from_text(text: str, zone: str | None) -> datetime:
    form = _ISO_8601 if zone is None else f"{_ISO_8601}|{_LOCAL}"
    try:
        if re.fullmatch(form, text) is not None:
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r} {UNREADABLE}")


def _from_local(value: datetime, zone: str | None) -> datetime:
    if zone is None:
        raise ValueError(f"{value.isoformat()} {NO_ZONE}, as in 2013-09-01T10:00:00Z")
    plain = datetime.combine(value.date(), value.time().replace(fold=0))
    moment = localised(pl.Series([plain], dtype=pl.Datetime("us")), zone)[0]
    if moment is None:
        raise ValueError(f"{value.isoformat()} {no_moment(zone)}")
    assert isinstance(moment, datetime)
    return moment


def to_us(value: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly (a float of seconds would round)."""
    delta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * US_PER_S + delta.microseconds
