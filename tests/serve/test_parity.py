"""The log against batch: what differs, in which features, and by how much."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from mlplat.model.signature import FeatureRef, Field, Signature
from mlplat.serve.parity import ASKED_AT, as_seen, asked, compare, merged

REF = FeatureRef(
    view="v", version="1", keys=("shop",), fields=(Field(name="x", dtype="float64"), Field(name="n", dtype="int64"))
)
SIGNATURE = Signature(
    entities=(Field(name="shop", dtype="string"),),
    request=(Field(name="latency_us", dtype="float64"), Field(name="shop", dtype="string")),
    features=(REF,),
    outputs=(Field(name="p", dtype="float64"), Field(name="word", dtype="string")),
)
LOG = pl.DataFrame(
    {
        "prediction_id": ["a", "b", "c"],
        "at": [1, 2, 3],
        "shop": ["s", "s", None],
        "request.latency_us": [0.5, 1.5, 2.5],
        "v.x": [1.0, None, -0.0],
        "v.n": [1, 2, 3],
        "output.p": [0.5, 0.25, 0.1],
        "output.word": ["yes", "no", "no"],
    }
)
BATCH = LOG.rename({"output.p": "p", "output.word": "word"})


def test_the_questions_come_back_under_their_own_names() -> None:
    frame = asked(LOG, SIGNATURE)
    assert frame.columns == [ASKED_AT, "shop", "latency_us"]
    assert frame["latency_us"].to_list() == [0.5, 1.5, 2.5]


def test_the_same_is_the_same() -> None:
    parity = compare(LOG, BATCH, SIGNATURE)
    assert parity
    assert (parity.rows, parity.differing, parity.first, parity.max_abs_diff) == (3, 0, None, 0.0)


def test_what_differs_is_named_with_nulls_and_signs() -> None:
    other = BATCH.with_columns(pl.Series("v.x", [1.0, 0.0, 0.0]), p=pl.col("p") + pl.Series([0.0, 0.5, 0.0]))
    parity = compare(LOG, other, SIGNATURE)
    assert not parity
    assert (parity.differing, parity.by_feature, parity.first, parity.max_abs_diff) == (2, {"v.x": 2}, "b", 0.5)
    both = merged([compare(LOG, BATCH, SIGNATURE), parity])
    assert (both.rows, both.differing, both.by_feature, both.first, both.max_abs_diff) == (6, 2, {"v.x": 2}, "b", 0.5)


def test_what_was_kept_after_it_expired_is_compared_with_what_it_was() -> None:
    def never() -> pl.DataFrame:
        raise AssertionError("nobody kept anything")

    null = pl.Series([1.0, None, None])
    log = LOG.with_columns(pl.Series("status.v", ["ok", "expired", "expired"]))
    batch = BATCH.with_columns(null.alias("v.x"), pl.Series("v.n", [1, None, None]))
    kept = BATCH.with_columns(pl.Series("v.x", [9.0, None, -0.0]))
    seen = as_seen(log, batch, SIGNATURE, kept=lambda: kept)
    assert compare(log, seen, SIGNATURE)
    assert seen["v.x"].to_list() == [1.0, None, -0.0], "what had not expired is as it was"
    wrong = kept.with_columns(pl.Series("v.n", [1, 2, 4]))
    assert compare(log, as_seen(log, batch, SIGNATURE, kept=lambda: wrong), SIGNATURE).first == "c"
    as_null = log.with_columns(batch["v.x"], batch["v.n"])
    assert compare(as_null, as_seen(as_null, batch, SIGNATURE, kept=never), SIGNATURE)
    other = log.with_columns(pl.Series("status.v", ["ok", "ok", None]))
    assert as_seen(other, batch, SIGNATURE, kept=never) is batch


def test_another_class_is_a_difference_of_one() -> None:
    assert compare(LOG, BATCH.with_columns(word=pl.Series(["yes", "yes", "no"])), SIGNATURE).max_abs_diff == 1.0
    numbers = replace(SIGNATURE, outputs=(Field(name="class", dtype="int64"),))
    log = LOG.with_columns(pl.Series("output.class", [3, 9, 9]))
    assert compare(log, BATCH.with_columns(pl.Series("class", [3, 9, 0])), numbers).max_abs_diff == 1.0
    assert compare(log, BATCH.with_columns(pl.Series("class", [3, 9, 9])), numbers).max_abs_diff == 0.0


def test_no_log_has_nothing_to_differ() -> None:
    assert merged([]).rows == 0
    assert compare(LOG.head(0), BATCH.head(0), SIGNATURE)
