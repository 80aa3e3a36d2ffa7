"""A space: what is asked of it, what it makes, and what is no space."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplat.errors import InvalidInput
from mlplat.model import mlp, space
from mlplat.model.space import Choice, Domain, Integer, Number

WIDTHS = {
    "network": space.made(mlp, hidden=space.repeat(space.integer(8, 64, log=True), space.integer(1, 3))),
    "learning_rate": space.number(1e-4, 1e-1, log=True),
    "optimiser": space.choice(
        adam={"beta": space.number(0.8, 0.99)},
        sgd={"momentum": space.number(0, 1), "nesterov": space.choice(True, False)},
    ),
}


def answers(values: dict[str, Any]) -> Any:
    return lambda name, domain: values[name]


def test_all_places_have_names_and_the_structure_is_made_of_their_values() -> None:
    assert list(space.domains(WIDTHS)) == [
        "network.hidden.times",
        "network.hidden[0]",
        "network.hidden[1]",
        "network.hidden[2]",
        "learning_rate",
        "optimiser",
        "optimiser=adam.beta",
        "optimiser=sgd.momentum",
        "optimiser=sgd.nesterov",
    ]
    values = {
        "network.hidden.times": 2,
        "network.hidden[0]": 16,
        "network.hidden[1]": 8,
        "learning_rate": 0.01,
        "optimiser": "sgd",
        "optimiser=sgd.momentum": 0.9,
        "optimiser=sgd.nesterov": True,
    }
    made = space.fill(WIDTHS, answers(values))  # what its options do not reach is not asked for
    assert made == {
        "network": mlp((16, 8)),
        "learning_rate": 0.01,
        "optimiser": {"momentum": 0.9, "nesterov": True},
    }


def test_in_a_list_what_repeats_or_is_a_list_stands_for_its_parts() -> None:
    layers = ["in", space.repeat(space.choice("a", "b"), 2), space.choice(none=[], two=["x", "y"]), ("kept", "whole")]
    values = {"1[0]": "b", "1[1]": "a", "2": "two"}
    assert space.fill(layers, answers(values)) == ["in", "b", "a", "x", "y", ("kept", "whole")]
    assert space.fill(space.repeat(["a", "b"], 2), answers({})) == ["a", "b", "a", "b"]


def test_places_of_one_name_are_asked_for_once_and_must_be_alike() -> None:
    width = space.integer(8, 64, name="width")
    asked = []

    def ask(name: str, domain: Domain) -> Any:
        asked.append(name)
        return 32

    assert space.fill({"a": width, "b": [width, width]}, ask) == {"a": 32, "b": [32, 32]}
    assert asked == ["width"]
    with pytest.raises(InvalidInput, match="two places are called 'width', and differ"):
        space.domains([width, space.integer(1, 2, name="width")])


def test_a_choice_of_labels_that_only_look_alike_is_exact() -> None:
    one = space.choice(1, "1")
    assert one.accepts(1)
    assert not one.accepts(1.0)
    assert not one.accepts(True)


def test_what_calls_make_may_be_a_partial_one() -> None:
    made = space.fill(space.made(partial, mlp, hidden=space.choice("small", "large")), answers({"hidden": "small"}))
    assert made.keywords == {"hidden": "small"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: space.number(2, 1), "the lower bound is above the upper one"),
        (lambda: space.number(0, 1, log=True), "must be above 0"),
        (lambda: space.number(0, float("inf")), "must be finite"),
        (lambda: space.number(1, 2, log=True, step=0.5), "has no steps"),
        (lambda: space.number(1, 2, step=0), "must be above 0"),
        (lambda: space.integer(1, 2.5), "2.5 is not a whole number"),
        (lambda: space.choice(), "nothing to choose from"),
        (lambda: space.choice("a", "a"), "'a' is there twice"),
        (lambda: space.repeat(1, space.choice("a")), "give whole numbers from 0"),
        (lambda: space.repeat(1, -1), "give whole numbers from 0"),
        (lambda: space.repeat(1, space.integer(-1, 2)), "give whole numbers from 0"),
        (lambda: space.made(3), "something that can be called"),
        (lambda: space.domains({"a": 1, "b": [2, {"c": None}]}), "there is nothing to choose in it"),
    ],
)
def test_what_is_no_space_is_refused_with_what_is_wrong(make: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make()


def test_pinned_places_have_their_values_and_the_others_keep_their_names() -> None:
    left = space.pinned(WIDTHS, {"network.hidden.times": 2, "network.hidden[1]": 8, "optimiser": "adam"})
    assert set(space.domains(left)) == {"network.hidden[0]", "learning_rate", "optimiser=adam.beta"}
    made = space.fill(left, answers({"network.hidden[0]": 64, "learning_rate": 0.1, "optimiser=adam.beta": 0.9}))
    assert made == {"network": mlp((64, 8)), "learning_rate": 0.1, "optimiser": {"beta": 0.9}}
    with pytest.raises(InvalidInput, match="no place is called 'rate'"):
        space.pinned(WIDTHS, {"rate": 1})
    with pytest.raises(InvalidInput, match=r"learning_rate=7 is not from 0\.0001 to 0\.1"):
        space.pinned(WIDTHS, {"learning_rate": 7})


leaves = st.one_of(
    st.builds(Number, low=st.just(0.0), high=st.floats(1, 9)),
    st.builds(Integer, low=st.integers(0, 3), high=st.integers(3, 9)),
    st.just("fixed"),
)
spaces = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
        st.builds(lambda options: Choice(options=dict(enumerate(options))), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda block, most: space.repeat(block, space.integer(0, most)), inner, st.integers(1, 3)),
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(spaces, st.randoms(use_true_random=False))
def test_pinning_some_values_and_choosing_the_rest_makes_what_choosing_all_makes(whole: Any, rng: Any) -> None:
    chosen: dict[str, Any] = {}

    def ask(name: str, domain: Domain) -> Any:
        options = list(domain.options) if isinstance(domain, Choice) else range(int(domain.low), int(domain.high) + 1)
        chosen[name] = rng.choice(options)
        return chosen[name]

    made = space.fill(whole, ask)
    if not chosen:
        return
    assert set(chosen) <= set(space.domains(whole))
    some = {name: value for name, value in chosen.items() if rng.random() < 0.5}
    left = space.pinned(whole, some)
    seen = []

    def rest(name: str, domain: Domain) -> Any:
        seen.append(name)
        assert domain.accepts(chosen[name])
        return chosen[name]

    assert space.fill(left, rest) == made
    assert not set(seen) & set(some)
