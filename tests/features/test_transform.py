"""A transform's output is what it declared, or an error that says where and for what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlplat import features as F
from mlplat.errors import MlplatError, Refused, UserCodeError
from mlplat.features.definitions import View
from mlplat.features.transform import fits, instance, make_rows
from tests.features.support import START, after, open_store

source = F.source("sales", key="shop", time="at")
ROWS = pl.DataFrame({"shop": ["a", "b"], "at": [after(1), after(2)], "price": [1.0, -2.0], "_id": [1, 2]})


@F.view(source)
class checked:
    """Does what the first row's shop says."""

    x: float = F.field(ge=-1, le=10)
    n: int

    def __call__(self, rows: pl.DataFrame) -> Any:
        made = rows.select(x=pl.col("price").abs(), n=pl.lit(1))
        return {
            "a": lambda: made,
            "raise": lambda: made[1 // 0],
            "library": lambda: __import__("json").loads("{"),
            "none": lambda: None,
            "short": lambda: made.head(0),
            "less": lambda: made.drop("n"),
            "low": lambda: made.with_columns(x=pl.lit(-1.5)),
            "high": lambda: made.with_columns(x=pl.lit(10.5)),
            "text": lambda: made.with_columns(x=pl.lit("1")),
            "part": lambda: made.with_columns(n=pl.lit(1.5)),
            "nan": lambda: made.with_columns(x=pl.lit(float("nan"))),
        }[rows["shop"][0]]()


@F.view(source)
class broken:
    x: float

    def __init__(self) -> None:
        raise ValueError("no weights")

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows


def made(how: str) -> pl.DataFrame:
    return make_rows(checked, instance(checked), ROWS.with_columns(shop=pl.lit(how)))


def test_rows_of_a_view_are_its_keys_time_id_and_fields() -> None:
    frame = make_rows(checked, instance(checked), ROWS)
    assert frame.columns == ["shop", "at", "_id", "x", "n"]
    assert frame.schema["n"] == pl.Int64
    assert frame["x"].to_list() == [1.0, 2.0]


def test_nan_is_null() -> None:
    assert made("nan")["x"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "raise",
            r"view 'checked': __call__ raised ZeroDivisionError: .* at .*test_transform.py:\d+. It was given 2 rows",
        ),
        ("library", r"raised JSONDecodeError: .* at .*test_transform.py:\d+"),
        ("none", "view 'checked' returned NoneType; return a polars DataFrame"),
        ("short", "was given 2 rows and returned 0; return one for each, in order"),
        ("less", "did not return 'n'; it returned x"),
        ("low", r"feature 'x': -1.5 is not >= -1, for the row \{'shop': 'low'"),
        ("high", "feature 'x': 10.5 is not <= 10"),
        ("text", "feature 'x': it is declared Float64 and came as String; cast it"),
        ("part", "feature 'n': it is declared Int64 and came as Float64; cast it"),
    ],
)
def test_a_transform_that_breaks_its_word_is_an_error_of_the_user(how: str, message: str) -> None:
    with pytest.raises(UserCodeError, match=message):
        made(how)


def test_an_init_that_raises_is_an_error_of_the_user() -> None:
    with pytest.raises(
        UserCodeError, match=r"'broken': __init__ raised ValueError: no weights at .*test_transform.py:\d+"
    ):
        instance(broken)


def test_a_definition_that_was_read_back_makes_the_same_features() -> None:
    back = View.from_json(checked.to_json())
    assert back.transform is None
    assert back == checked
    assert make_rows(back, instance(back), ROWS).equals(make_rows(checked, instance(checked), ROWS))


def test_code_that_stands_on_a_local_name_is_not_carried_and_says_so() -> None:
    factor = 2.0

    @F.view(source)
    class local:
        n: float

        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows.select(n=pl.col("price") * factor)

    with pytest.raises(Refused, match=r"import it and call platform.features.apply\(local\) here first"):
        instance(View.from_json(local.to_json()))


@pytest.mark.parametrize(
    ("given", "wanted", "answer"),
    [
        (pl.Float32(), pl.Float64(), True),
        (pl.Int8(), pl.Float64(), True),
        (pl.Float64(), pl.Int64(), False),
        (pl.UInt8(), pl.Int64(), True),
        (pl.Categorical(), pl.String(), True),
        (pl.Enum(["a"]), pl.String(), True),
        (pl.Int64(), pl.String(), False),
        (pl.Int64(), pl.Boolean(), False),
        (pl.Null(), pl.Boolean(), True),
    ],
)
def test_nothing_is_rounded_or_parsed_on_the_way(given: pl.DataType, wanted: pl.DataType, answer: bool) -> None:
    assert fits(given, wanted) is answer


def test_a_push_that_its_transform_refuses_has_not_happened(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.ingest(source, [{"shop": "a", "at": START, "price": 1.0}])
    store.apply(checked)
    with pytest.raises(UserCodeError, match="ZeroDivisionError"):
        store.push(source, {"shop": "raise", "at": after(5), "price": 3.0})
    asked = pl.DataFrame({"shop": ["raise", "a"], "at": [after(9), after(9)]})
    assert store.join(asked, [checked], time="at")["checked.x"].to_list() == [None, 1.0]
    store.close()


def test_a_batch_whose_transform_fails_is_kept_and_the_error_says_so(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.ingest(source, [{"shop": "a", "at": START, "price": 1.0}])
    store.apply(checked)
    with pytest.raises(UserCodeError, match="The batch itself is in source 'sales'; it need not come again"):
        store.ingest(source, [{"shop": "raise", "at": after(1), "price": 1.0}])
    assert issubclass(UserCodeError, MlplatError)
    store.close()
