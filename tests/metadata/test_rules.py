"""What every store refuses and how it writes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mlplat.errors import InvalidInput
from mlplat.metadata.rules import MAX_TEXT, check_name, finite, plain, texts


@pytest.mark.parametrize("name", ["late", "late-flights_2.0", "A" * 200])
def test_a_good_name_passes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "../x", "a b", "a/b", "-x", "A" * 201])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="letters"):
        check_name(name)


def test_plain_values_always_fit_json() -> None:
    value = {
        "nan": math.nan,
        "numpy": np.float32(0.5),
        "int": np.int64(3),
        "bool": np.bool_(True),
        "nested": [1, (2.5, None), {"inf": math.inf}],
        "other": object,
    }
    back = json.loads(json.dumps(plain(value), allow_nan=False))
    assert back["nan"] == "nan"
    assert back["numpy"] == 0.5
    assert back["int"] == 3
    assert back["bool"] is True
    assert back["nested"] == [1, [2.5, None], {"inf": "inf"}]


def test_a_key_with_odd_characters_and_a_long_value_are_refused() -> None:
    with pytest.raises(InvalidInput, match="key"):
        texts("param", {"a\n": 1})
    with pytest.raises(InvalidInput, match="limit"):
        texts("param", {"a": "x" * (MAX_TEXT + 1)})


def test_finite_names_the_metric() -> None:
    with pytest.raises(InvalidInput, match="auc"):
        finite({"ok": 1.0, "auc": math.nan})
