"""Views over views and request data: computed when they are read, refused where they could not be computed elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import InvalidInput, NotFound, ParityError, Refused, UserCodeError
from mlplat.features.definitions import Derived, View
from mlplat.features.store import FeatureStore
from tests.features.support import after, open_store

sales = F.source("sales", key="shop", time="sold_at", id="sale")
visits = F.source("visits", key=("shop", "town"), time="seen_at", id="visit")
RATE = {"low": 0.1, "high": 0.2}
LIMIT = 5.0


def rate(high: bool) -> float:
    return RATE["high" if high else "low"]


@F.view(sales)
class recent:
    total_1m = F.sum("price", window="1m")
    sold_1m = F.count(window="1m")


@F.view(visits, ttl="1h")
class newest:
    seen: int = F.latest("people")


@F.derived(recent, newest, owner="ann", tags=("money",))
class per_visitor:
    """What a visitor is worth."""

    worth: float = F.field(ge=0)
    big: bool

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        total = pl.col("recent.total_1m").fill_null(0.0)
        return rows.select(worth=total / pl.col("newest.seen"), big=total > LIMIT)


@F.derived(per_visitor, recent, request={"asked": float})
class offer:
    price: float
    second: int

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        high = pl.col("per_visitor.big").fill_null(value=False)
        share = pl.when(high).then(rate(True)).otherwise(rate(False))
        return rows.select(price=pl.col("asked") * share, second=pl.col("at").dt.second().cast(pl.Int64))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    made = open_store(tmp_path)
    made.ingest(sales, [{"sale": f"s{i}", "shop": "a", "sold_at": after(i), "price": 1.5 * i} for i in range(5)])
    made.ingest(visits, [{"visit": "v", "shop": "a", "town": "x", "seen_at": after(2), "people": 3}])
    made.apply(recent, newest, per_visitor, offer)
    yield made
    made.close()


def asked(**columns: Any) -> pl.DataFrame:
    rows = {"shop": ["a", "a", "b"], "town": ["x", "y", "x"], "asked": [10.0, None, 1.0], **columns}
    return pl.DataFrame({**rows, "t": [after(4), after(5), after(6)]})


def test_it_is_computed_from_its_parents_features_and_the_request(store: FeatureStore) -> None:
    joined = store.join(asked(), [offer, newest, per_visitor], time="t")
    assert joined.columns == [
        "shop", "town", "asked", "t", "offer.price", "offer.second", "newest.seen", "per_visitor.worth", "per_visitor.big"
    ]  # fmt: skip
    assert joined["per_visitor.worth"].to_list() == [9.0 / 3, None, None]
    assert joined["per_visitor.big"].to_list() == [True, True, False]
    assert joined["offer.price"].to_list() == [2.0, None, 0.1]
    assert joined["offer.second"].to_list() == [4, 5, 6]


def test_it_is_pinned_to_its_parents_versions(store: FeatureStore) -> None:
    changed = F.view(sales)(
        type("recent", (), {"total_1m": F.sum("price", window="2m"), "sold_1m": F.count(window="1m")})
    )
    store.apply(changed)
    assert store.view("recent").version == changed.version
    assert store.join(asked(), ["per_visitor"], time="t")["per_visitor.worth"].to_list() == [3.0, None, None]
    assert store.lineage("offer")["from"][1] == {
        "view": "recent", "version": recent.version, "kind": "windows",
        "from": [{"source": "sales", "key": ["shop"], "time": "sold_at"}],
    }  # fmt: skip
    assert store.lineage(offer)["from"][-1] == {"request": "asked", "dtype": "float64"}


def test_a_training_set_has_its_request_fields_and_pins_it(store: FeatureStore) -> None:
    labels = asked().with_columns(late=pl.Series([1, 0, 1]))
    data = store.training_set("offers", labels, [offer], label="late", time="t", request=[])
    assert [f.name for f in data.entities] == ["shop", "town", "asked"]
    assert data.features == (offer.ref,)
    assert sorted(data.data_versions) == ["sales", "visits"]
    with pytest.raises(Refused, match=r"version \w+ of view 'recent' is in use and stays: views? .*per_visitor@"):
        store.retire(recent)
    with pytest.raises(Refused, match=rf"is in use and stays: training set offers@{data.snapshot}"):
        store.retire(offer)


@pytest.mark.slow
def test_a_definition_that_was_read_back_computes_the_same(store: FeatureStore) -> None:
    back = Derived.from_json(offer.to_json())
    assert back == offer
    assert back.version == offer.version
    assert back.transform is None
    other = open_store(store._home)
    assert other.join(asked(), ["offer"], time="t").equals(store.join(asked(), [offer], time="t"))
    other.close()


def test_a_request_field_of_the_wrong_type_or_missing_is_refused(store: FeatureStore) -> None:
    with pytest.raises(
        InvalidInput, match="view 'offer' takes request field 'asked' as Float64, and the rows have it as"
    ):
        store.join(asked(asked=["1", "2", "3"]), [offer], time="t")
    with pytest.raises(InvalidInput, match="view 'offer' is keyed by 'asked'; the rows have shop, town, t"):
        store.join(asked().drop("asked"), [offer], time="t")


def test_one_that_depends_on_its_batch_is_refused(store: FeatureStore) -> None:
    @F.derived(recent)
    class ranked:
        rank: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(rank=pl.col("recent.sold_1m").rank())

    with pytest.raises(ParityError, match=r"view 'ranked' depends on how its rows are batched. Row 1"):
        store.apply(ranked)
    assert "ranked" not in store.views()


def test_one_that_fails_or_stands_on_a_local_name_is_refused(store: FeatureStore) -> None:
    factor = 2

    @F.derived(recent)
    class local:
        n: int

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(n=pl.col("recent.sold_1m") * factor)

    @F.derived(recent)
    class failing:
        n: int

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(n=pl.col("recent.sold"))

    with pytest.raises(InvalidInput, match="view 'local' stands on names from outside its module's top level"):
        store.apply(local)
    with pytest.raises(UserCodeError, match="view 'failing': __call__ raised ColumnNotFoundError"):
        store.apply(failing)


def test_a_parent_must_be_applied_first(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(NotFound, match="There is no view 'recent'"):
        store.apply(per_visitor)
    store.close()


def plain(name: str, **body: Any) -> type:
    return type(name, (), body)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F.derived(recent)(plain("x", n=F.count(window="1h"))), "a class with annotated fields and __call__"),
        (
            lambda: F.derived()(type("per_visitor", (), dict(vars(per_visitor.transform)))),
            "name the views that it derives",
        ),
        (lambda: remade(recent, recent), "it names a view twice"),
        (lambda: remade(recent, request={"shop": str}), "request field 'shop' is a key, or t"),
        (lambda: remade(recent, request={"at": int}), "request field 'at' is a key, or t"),
        (lambda: remade(recent, request={"x": list}), "request field 'x': its type is float, int, str or bool"),
        (lambda: remade(recent, request={"big": int}), "'big' is given to the view; rename the feature"),
        (lambda: remade(recent, tolerance=2.0), "tolerance=2.0 is a relative difference, between 0 and 1"),
    ],
)
def test_a_wrong_declaration_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def remade(*parents: View, **how: Any) -> Derived:
    body = per_visitor.transform
    assert isinstance(body, type)
    return F.derived(*parents, **how)(body)
