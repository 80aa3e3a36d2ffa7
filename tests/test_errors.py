"""Messages of errors."""

from __future__ import annotations

from mlplat.errors import BatchRefused, MlplatError, Problem, unknown


def test_a_wrong_name_is_answered_with_the_near_ones() -> None:
    assert "Did you mean 'airport'?" in str(unknown("view", "airprot", ["airport", "weather"]))


def test_a_name_with_nothing_near_lists_what_exists() -> None:
    assert "Known: airport, weather." in str(unknown("view", "zzz", ["weather", "airport"]))
    assert "There is no view yet." in str(unknown("view", "zzz", []))


def test_a_refused_batch_names_columns_and_rows() -> None:
    error = BatchRefused("source 's'", [Problem(field="time", message="is null", rows=(3, 5), count=7)])
    assert "time: is null (7 rows: 3, 5, ...)" in str(error)
    assert "unchanged" in str(error)
    assert isinstance(error, MlplatError)
