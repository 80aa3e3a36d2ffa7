"""Declaring sources and views: what is refused, and what makes a version."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import InvalidInput
from mlplat.features.definitions import View, duration_us

events = F.source("events", key="shop", time="at")
LIMIT = 3.0


def twice(column: str) -> pl.Expr:
    return pl.col(column) * 2


def view_of(body: dict[str, Any], **arguments: Any) -> View:
    return F.view(events, **arguments)(type("things", (), body))


def test_a_duration_is_a_number_and_a_unit() -> None:
    assert [duration_us(t) for t in ("90s", "5m", "1h", "7d", "2w")] == [
        90_000_000, 300_000_000, 3_600_000_000, 604_800_000_000, 1_209_600_000_000
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "-1h", "1.5h", "1 h", "1y", "1h30m"])
def test_another_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="write a whole number above 0 and a unit"):
        duration_us(text)


def test_a_duration_of_more_than_a_century_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the longest is 36500d"):
        duration_us("36501d")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F.source("Bad name", key="a", time="t"), "source name 'Bad name': use lower-case"),
        (lambda: F.source("s", key=(), time="t"), "name one column"),
        (lambda: F.source("s", key=("a", "a"), time="t"), "several different ones"),
        (lambda: F.source("s", key="t", time="t"), "'t' is the event time, so it cannot be a key"),
        (lambda: F.source("s", key="a", time="t", id="_id"), "names that begin with _ are reserved"),
        (lambda: view_of({}), "view 'things': give it windows"),
        (lambda: view_of({"n": F.count(window="1h"), "a": F.age()}), "one kind"),
        (lambda: view_of({"n": F.count(window="1h")}, ttl="1h"), "windows bound their own age"),
        (lambda: view_of({"n": F.count(window="1h")}, actors=(2, 1)), r"actors=\(2, 1\) must be"),
        (lambda: view_of({"shop": F.count(window="1h")}), "'shop' is a key, the event time or the status"),
        (lambda: view_of({"status": F.age()}), "'status' is a key, the event time or the status"),
        (lambda: view_of({"x": F.latest("x")}), "annotate it with float, int, str or bool"),
        (lambda: view_of({"x": F.field(), "__annotations__": {"x": float}}), "say where it comes from"),
        (lambda: view_of({"X": F.count(window="1h")}), "feature name 'X': use lower-case"),
    ],
)
def test_a_wrong_declaration_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_bounds_are_for_numbers() -> None:
    with pytest.raises(InvalidInput, match="feature 'word': only a number has bounds"):

        @F.view(events)
        class worded:
            word: str = F.field(ge=0)

            def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
                return rows


def test_a_class_whose_source_cannot_be_read_is_refused() -> None:
    space: dict[str, Any] = {"F": F, "events": events}
    text = "@F.view(events)\nclass made:\n    x: float\n    def __call__(self, rows):\n        return rows\n"
    with pytest.raises(InvalidInput, match="'made': its source cannot be read"):
        exec(text, space)


def plain() -> View:
    @F.view(events)
    class doubled:
        x: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(x=twice("x") + LIMIT)

    return doubled


def commented() -> View:
    @F.view(events, actors=(1, 4))
    class doubled:
        """Words about it."""

        x: float  # the double

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            """More words."""
            # and more
            return rows.select(
                x=twice("x") + LIMIT,
            )

    return doubled


def changed() -> View:
    @F.view(events)
    class doubled:
        x: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(x=twice("x") + LIMIT + 1)

    return doubled


def test_comments_docstrings_and_actors_make_no_version_and_code_does() -> None:
    assert plain().version == commented().version != changed().version


def test_two_classes_of_one_name_in_one_function_are_told_apart() -> None:
    @F.view(events)
    class one:
        x: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(x=pl.lit(1.0))

    first = one

    @F.view(events)
    class one:  # type: ignore[no-redef]
        x: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(x=pl.lit(2.0))

    assert first.version != one.version


def test_a_helper_and_a_constant_of_the_module_belong_to_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plain()
    assert before.code is not None
    assert "def twice" in before.code
    assert "LIMIT = 3.0" in before.code
    monkeypatch.setitem(globals(), "LIMIT", 4.0)
    assert plain().version != before.version


def test_every_part_of_a_definition_makes_a_version() -> None:
    other = F.source("events", key="shop", time="at", id="order")
    versions = [
        view_of({"n": F.count(window="1h")}),
        view_of({"n": F.count(window="2h")}),
        view_of({"m": F.count(window="1h")}),
        view_of({"n": F.sum("x", window="1h")}),
        view_of({"n": F.mean("x", window="1h")}),
        view_of({"n": F.count(window="1h")}, key="town"),
        view_of({"n": F.age()}),
        view_of({"n": F.age()}, ttl="1h"),
        F.view(other)(type("things", (), {"n": F.count(window="1h")})),
    ]
    assert len({view.version for view in versions}) == len(versions)


def test_a_definition_survives_json() -> None:
    for view in (plain(), view_of({"n": F.count(window="1h"), "m": F.last("x", window="1d")}, key=("a", "b"))):
        again = View.from_json(view.to_json())
        assert again == view
        assert again.version == view.version
        assert again.ref == view.ref
