"""What there is, who uses it, and what may be retired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import NotFound, Refused
from mlplat.features.catalogue import ModelUse
from mlplat.features.pool import InProcess
from mlplat.features.store import FeatureStore
from tests.features.support import StillClock, after

sales = F.source("sales", key="shop", time="sold_at", id="sale", owner="ann")
MODELS: list[ModelUse] = []


@F.view(sales, owner="ann", tags=("money", "shops"))
class takings:
    """What a shop takes."""

    total_1h = F.sum("price", window="1h")


@F.view(sales, key="item", owner="bob", tolerance=1e-9)
class doubled:
    """Twice the price."""

    double: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(double=pl.col("price") * 2)


def sale(number: int) -> dict[str, Any]:
    return {"sale": f"s{number}", "shop": "a", "item": "tea", "sold_at": after(number), "price": float(number)}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    MODELS.clear()
    made = FeatureStore(tmp_path, clock=StillClock(), pool=InProcess(), models=lambda: MODELS)
    made.ingest(sales, [sale(1), sale(2)])
    made.apply(takings, doubled)
    yield made
    made.close()


def names(found: list[Any]) -> list[str]:
    return [entry.name for entry in found]


def test_it_is_searched_by_words_owner_tag_and_entity(store: FeatureStore) -> None:
    assert names(store.search()) == ["doubled", "takings"]
    assert names(store.search("shop takes")) == ["takings"]
    assert names(store.search("TOTAL_1H sales")) == ["takings"]
    assert names(store.search(owner="bob")) == ["doubled"]
    assert names(store.search(tag="money")) == ["takings"]
    assert names(store.search(entity="item")) == ["doubled"]
    assert store.search("nothing like it") == []
    entry = store.search("twice")[0]
    assert (entry.kind, entry.tolerance, entry.reads) == ("transform", 1e-9, ("sales",))


def test_what_people_say_of_a_view_makes_no_version_and_is_that_of_the_last_time(store: FeatureStore) -> None:
    again = F.view(sales, owner="eve")(
        type("takings", (), {"total_1h": F.sum("price", window="1h"), "__doc__": "New."})
    )
    assert again.version == takings.version
    store.apply(again)
    assert len(store.history("takings")) == 1
    entry = store.search("takings")[0]
    assert (entry.owner, entry.description, entry.tags) == ("eve", "New.", ())


def test_users_are_training_sets_and_the_models_made_of_them(store: FeatureStore) -> None:
    assert not store.users("takings")
    labels = pl.DataFrame({"shop": ["a"], "t": [after(9)], "y": [1]})
    one = store.training_set("one", labels, ["takings"], label="y", time="t")
    two = store.training_set("two", labels, ["takings"], label="y", time="t")
    MODELS.extend([ModelUse(name="one", version=3, snapshot=one.snapshot), ModelUse(name="x", version=1, snapshot="-")])
    users = store.users(takings, feature="total_1h")
    assert users.models == ("one@3",)
    assert users.training_sets == (f"one@{one.snapshot}", f"two@{two.snapshot}")
    assert not store.users("doubled")
    with pytest.raises(Refused, match=r"is in use and stays: model one@3; training sets one@.*, two@"):
        store.retire("takings")
    with pytest.raises(NotFound, match=r"There is no feature of view 'takings' 'total_2h'. Did you mean 'total_1h'"):
        store.users("takings", feature="total_2h")


def test_a_training_set_is_deleted_once_no_model_is_made_of_it(store: FeatureStore) -> None:
    labels = pl.DataFrame({"shop": ["a"], "t": [after(9)], "y": [1]})
    data = store.training_set("one", labels, ["takings"], label="y", time="t")
    assert store.training_sets() == [data]
    MODELS.append(ModelUse(name="one", version=3, snapshot=data.snapshot))
    with pytest.raises(Refused, match=rf"training set one@{data.snapshot} stays: one@3 was made of it"):
        store.delete_training_set(data)
    MODELS.clear()
    store.delete_training_set(data)
    assert store.training_sets() == []
    assert not data.path.exists()
    with pytest.raises(NotFound, match="There is no training set 'one' with snapshot"):
        store.delete_training_set(data)
    store.retire("takings")


def test_a_retired_version_is_gone_from_both_paths_and_back_when_it_is_applied(store: FeatureStore) -> None:
    store.retire("doubled")
    asked = pl.DataFrame({"item": ["tea"], "t": [after(9)]})
    with pytest.raises(Refused, match="every version of view 'doubled' is retired; apply one to use it again"):
        store.join(asked, ["doubled"], time="t")
    with pytest.raises(Refused, match=f"version {doubled.version} of view 'doubled' is retired"):
        store.join(asked, [doubled], time="t")
    assert store.history("doubled")[0].retired
    assert names(store.search()) == ["takings"]
    store.push(sales, sale(3))
    store.apply(doubled)
    assert not store.history("doubled")[0].retired
    assert store.join(asked, ["doubled"], time="t")["doubled.double"].to_list() == [6.0]


def test_both_versions_are_kept_fresh_until_one_is_retired(store: FeatureStore) -> None:
    longer = F.view(sales)(type("takings", (), {"total_1h": F.sum("price", window="2h")}))
    store.apply(longer)
    store.push(sales, sale(5))
    asked = pl.DataFrame({"shop": ["a"], "t": [after(3600 + 3)]})
    for view, total in ((takings, 5.0), (longer, 8.0)):
        assert store.join(asked, [view.ref], time="t")["takings.total_1h"].to_list() == [total]
        assert store.online(view, {"shop": ["a"]}, at=after(3600 + 3)).to_arrow()["total_1h"].to_pylist() == [total]
    store.retire("takings", takings.version)
    assert store.view("takings").version == longer.version
    with pytest.raises(Refused, match="is retired"):
        store.online(takings, {"shop": ["a"]})
