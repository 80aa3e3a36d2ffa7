"""Labels are sampled by what they are, not by where they stand."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from mlplat.errors import InvalidInput
from mlplat.features.sampling import sample_labels
from tests.features.support import after

LABELS = pl.DataFrame(
    {
        "shop": [None if i % 50 == 0 else f"s{i % 7}" for i in range(4000)],
        "asked_at": [after(i // 2 * 2) for i in range(4000)],
        "row": range(4000),
    }
)
BY = ["shop", "asked_at"]


def sample(frame: pl.DataFrame, share: float, seed: int = 0) -> list[int]:
    return sample_labels(frame, share, by=BY, seed=seed)["row"].to_list()


def test_about_the_share_is_taken_in_order() -> None:
    taken = sample(LABELS, 0.25)
    assert taken == sorted(taken)
    assert 900 < len(taken) < 1100
    assert sample(LABELS, 1.0) == list(range(4000))
    assert sample(LABELS.clear(), 0.5) == []


def test_neither_order_nor_other_labels_nor_types_matter() -> None:
    taken = set(sample(LABELS, 0.25))
    assert set(sample(LABELS.reverse(), 0.25)) == taken
    assert set(sample(LABELS.head(100), 0.25)) == {row for row in taken if row < 100}
    other = LABELS.with_columns(pl.col("asked_at").dt.cast_time_unit("ns").dt.convert_time_zone("Asia/Tokyo"))
    assert set(sample(other.cast({"shop": pl.Categorical()}), 0.25)) == taken


def test_equal_labels_stay_together_and_a_larger_share_has_the_smaller() -> None:
    twice = pl.concat([LABELS, LABELS])
    assert sample(twice, 0.25) == sample(LABELS, 0.25) * 2
    assert set(sample(LABELS, 0.25)) < set(sample(LABELS, 0.5))


def test_another_seed_takes_others() -> None:
    one, other = set(sample(LABELS, 0.5, seed=1)), set(sample(LABELS, 0.5, seed=2))
    assert 800 < len(one & other) < 1200


@pytest.mark.parametrize(
    ("share", "by", "message"),
    [
        (0, BY, "sample=0: give the share of the labels to take, above 0 and at most 1, as in 0.1"),
        (1.5, BY, "sample=1.5: give the share"),
        (float("nan"), BY, "sample=nan: give the share"),
        (0.5, ["item"], "labels are sampled by 'item'; they have shop, asked_at, row"),
    ],
)
def test_what_is_no_sample_is_refused(share: float, by: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        sample_labels(LABELS, share, by=by)
