"""The plan of a join in buckets, and the memory that it may take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from mlplat.errors import InvalidInput
from mlplat.features.buckets import (
    LEAST_BYTES,
    MIB,
    MOST_BUCKETS,
    Plan,
    Size,
    bucket_of,
    cuts,
    fits,
    limit_bytes,
    made_bytes,
    plan_for,
    stretch_of,
)
from tests.features.test_offline import newest, windows

GIB = 2**30


def planned(rows: int, *, labels: int = 1000, limit: int = 512 * MIB, workers: int = 2) -> Plan:
    size = Size(rows=rows, width=100, columns=10)
    return plan_for(newest, size, labels=labels, labels_bytes=labels * 24, limit=limit, workers=workers)


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 * MIB), ("2GiB", 2 * GIB), ("1.5GB", 1_500_000_000), ("0.5TiB", GIB * 512)]
)
def test_memory_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert limit_bytes(text, available=0) == size


@pytest.mark.parametrize("text", ["512", "512 MiB", "512mib", "GiB", "-1GiB", "1e9GB", "", "512MiBs", 512])
def test_memory_in_other_words_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="write a number and a unit of MiB, GiB, TiB, MB, GB, TB, as in '512MiB' or"):
        limit_bytes(text, available=0)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(InvalidInput, match="memory='63MiB': a join needs at least 64MiB"):
        limit_bytes("63MiB", available=0)


def test_half_of_the_free_memory_is_taken_by_default() -> None:
    assert limit_bytes(None, available=8 * GIB) == 4 * GIB
    assert limit_bytes(None, available=0) == LEAST_BYTES


def test_the_size_of_a_view_is_estimated_from_its_rows_and_types() -> None:
    assert Size.of(10, {"a": pl.Int64(), "b": pl.String(), "c": pl.Boolean()}).bytes == 10 * (8 + 40 + 8)
    assert made_bytes([newest, windows], 10) == 10 * 8 * 12


def test_a_join_is_made_in_memory_if_rows_and_features_fit() -> None:
    size = Size(rows=MIB, width=100, columns=10)
    assert fits(size, made=0, limit=600 * MIB)
    assert not fits(size, made=0, limit=599 * MIB)
    assert not fits(size, made=MIB, limit=600 * MIB)


def test_buckets_are_so_many_that_each_fits_twice_in_the_memory_of_a_worker() -> None:
    few, many = planned(1000), planned(50_000_000)
    assert few.buckets == 1
    assert many.buckets == pytest.approx(2 * 50_000_000 * 100 / many.bucket_bytes, abs=1)
    assert many.bucket_bytes * many.workers < 512 * MIB / 5
    assert planned(10**12).buckets == MOST_BUCKETS


def test_workers_are_so_few_that_each_has_enough() -> None:
    # Each holds 4 MiB for each of the 10 columns that it reads, and at least 64 MiB for the rows.
    assert planned(1000, workers=64).workers == 511 // (64 + 40)
    assert planned(1000, workers=64, limit=64 * MIB).workers == 1
    assert planned(1000, workers=2, limit=64 * GIB).workers == 2


def test_labels_that_leave_no_room_are_refused_with_what_would_do() -> None:
    with pytest.raises(InvalidInput, match=r"memory: of 512MiB the 4000000 labels leave too little .* at least 652MiB"):
        planned(1000, labels=4_000_000)
    assert planned(1000, labels=4_000_000, limit=652 * MIB).buckets == 1


KEYS = pl.DataFrame({"a": [*map(str, range(1000)), None, "Ærø"], "b": [*range(1000), 1, None]})


def test_a_bucket_depends_on_values_alone() -> None:
    whole = bucket_of(KEYS, 7)
    assert bucket_of(KEYS[::-1], 7).tolist() == whole[::-1].tolist()
    apart = pl.concat([KEYS.slice(0, 3), KEYS.slice(3)], rechunk=False)
    assert bucket_of(apart, 7).tolist() == whole.tolist()
    assert np.bincount(whole, minlength=7).min() > 100


@pytest.mark.slow
def test_a_bucket_is_the_same_in_every_process() -> None:
    code = (
        "from tests.features.test_buckets import KEYS; from mlplat.features.buckets import bucket_of;"
        "print(bucket_of(KEYS, 1000).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(bucket_of(KEYS, 1000).tolist())


def test_cuts_are_moments_of_the_sample_and_equal_times_stay_together() -> None:
    times = np.array([5, 1, 9, 9, 9, 9, 3, 7])
    moments = cuts(times, 4)
    assert set(moments.tolist()) <= set(times.tolist())
    assert moments.tolist() == sorted(set(moments.tolist()))
    assert stretch_of(moments, moments).tolist() == list(range(1, len(moments) + 1))
    assert cuts(np.array([4, 4, 4]), 3).tolist() == [4]
