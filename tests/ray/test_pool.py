"""The actor pool makes the rows that one process would make, and a user's error comes out as one."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import UserCodeError
from mlplat.features._ray.pool import BLOCK_ROWS, transform_on_pool
from mlplat.features.definitions import View
from mlplat.features.transform import instance, make_rows
from tests.features.support import after

pytestmark = pytest.mark.ray

source = F.source("sales", key="shop", time="at")


def rows(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "shop": [f"s{i % 7}" for i in range(count)],
            "at": [after(i) for i in range(count)],
            "price": [None if i % 5 == 0 else i / 3 for i in range(count)],
            "_id": range(count),
            "_batch": [0] * count,
        }
    )


@F.view(source, actors=(1, 2))
class made:
    """Says which object made a row."""

    third: float
    word: str
    object: int

    def __init__(self) -> None:
        import uuid

        self.number = uuid.uuid4().int % 2**62

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(third=pl.col("price") / 3, word=pl.col("shop") + "é", object=pl.lit(self.number))


@F.view(source)
class failing:
    x: float

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(x=pl.col("nowhere"))


@F.view(source)
class unmakeable:
    x: float

    def __init__(self) -> None:
        raise ValueError("no weights")

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows


def test_the_pool_makes_what_one_process_makes_with_one_object_per_actor(ray_cluster: Any) -> None:
    given = rows(3 * BLOCK_ROWS + 5)
    found = transform_on_pool(made, given).sort("_id")
    wanted = make_rows(made, instance(made), given).sort("_id")
    assert found.schema == wanted.schema
    assert found.drop("object").equals(wanted.drop("object"))
    assert found["object"].n_unique() <= 2


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (failing, r"view 'failing': __call__ raised ColumnNotFoundError: .*test_pool.py:\d+. It was given 10 rows"),
        (unmakeable, r"view 'unmakeable': __init__ raised ValueError: no weights at .*test_pool.py:\d+"),
    ],
)
def test_an_error_of_the_users_code_comes_out_as_it_was_raised(ray_cluster: Any, view: View, message: str) -> None:
    with pytest.raises(UserCodeError, match=f"(?s){message}"):
        transform_on_pool(view, rows(10))
