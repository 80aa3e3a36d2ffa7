"""A class's text identifies its code, and makes it again where its module is not."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import traceback
from math import floor as down
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars import col

from mlplat.errors import UserCodeError
from mlplat.source_code import load, module_text, normal_form

WORDS = re.compile(r"[a-z]+")
TABLE: dict[str, float] = {"a": 1.0, "b": down(2.5)}
SCALE = len(TABLE) - 0.0
OUTSIDE: Any = None


def even(n: int) -> bool:
    """Calls what calls it."""
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


class Base:
    def __init__(self) -> None:
        self.pi = math.floor(math.pi)


class everything(Base):
    x: float
    marker: Path  # an annotation is never read

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Comments and docstrings are not in it."""
        found = [even(len(WORDS.findall(text))) for text in rows["text"]]
        return rows.select(x=col("n") * TABLE["b"] * SCALE + self.pi + pl.Series([float(f) for f in found]))


class outside:
    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return OUTSIDE(rows)


ROWS = pl.DataFrame({"text": ["one two", "one"], "n": [1.0, 2.0]})


def test_the_text_makes_the_class_again_with_all_it_stands_on() -> None:
    text = module_text(everything)
    assert text is not None
    assert load("view", "everything", text, remedy="")()(ROWS).equals(everything()(ROWS))


@pytest.mark.slow
def test_it_runs_in_a_process_that_lacks_the_module(tmp_path: Path) -> None:
    text = module_text(everything)
    (tmp_path / "text.py").write_text(str(text))
    program = "import text, polars as pl; print(text.everything()(pl.DataFrame({'text': ['a b'], 'n': [1.0]}))['x'][0])"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "8.0", done.stderr


def test_a_value_that_is_set_by_a_statement_is_part_of_the_identity() -> None:
    form = normal_form(everything)
    for statement in ("TABLE: dict[str, float] = {'a': 1.0, 'b': down(2.5)}", "SCALE = 2.0", "def odd("):
        assert statement in form
    assert "Comments and docstrings" not in form


def doubled(rows: pl.DataFrame) -> pl.DataFrame:
    """Stands on a function of its module."""
    return rows.select(x=pl.col("n") * (2.0 if even(2) else 0.0))


def test_the_text_of_a_function_makes_it_again() -> None:
    text = module_text(doubled)
    assert text is not None
    assert load("network", "doubled", text, remedy="")(ROWS)["x"].to_list() == [2.0, 4.0]


def test_code_that_stands_on_a_local_name_has_no_module() -> None:
    factor = 2

    class local:
        def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
            return rows * factor

    assert module_text(local) is None


def test_a_name_that_is_set_to_nothing_is_a_constant() -> None:
    assert "OUTSIDE = None" in normal_form(outside)


def test_text_that_does_not_run_says_what_to_do() -> None:
    with pytest.raises(
        UserCodeError, match=r"view 'x': its code does not run in this process: ModuleNotFoundError: .*nowhere"
    ):
        load("view", "x", "import nowhere", remedy="")


def test_tracebacks_show_the_lines_of_the_text() -> None:
    made = load("view", "bad", "class bad:\n    def __call__(self, rows):\n        return rows[1 // 0]\n", remedy="")
    with pytest.raises(ZeroDivisionError) as raised:
        made()(ROWS)
    assert "return rows[1 // 0]" in "".join(traceback.format_exception(raised.value))
