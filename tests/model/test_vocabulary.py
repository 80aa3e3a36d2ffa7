"""Spaces of networks, and cells: what they compute, and which of them are the same."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlplat import space
from mlplat.errors import InvalidInput
from mlplat.model import Architecture, vocabulary
from mlplat.model.architecture import Activation, Cell, Dense, Edge, Layer, Norm
from mlplat.model.build import Network

NETWORKS = vocabulary.network(
    vocabulary.dense(space.choice(4, 8, name="width")),
    space.repeat(
        vocabulary.connection(
            vocabulary.dense(space.choice(4, 8, name="width")), vocabulary.activation(space.choice("relu", "gelu"))
        ),
        space.integer(0, 2),
    ),
    vocabulary.cell(
        3,
        name="cell",
        linear=[vocabulary.dense(space.choice(4, 8, name="width"))],
        tanh=[vocabulary.activation("tanh")],
    ),
)
LAYERS: list[tuple[Layer, ...]] = [(), (Dense(units=3),), (Dense(units=5), Activation(name="tanh")), (Norm(),)]


def drawn(seed: int) -> Architecture:
    rng = random.Random(seed)

    def ask(name: str, domain: Any) -> Any:
        if isinstance(domain, space.Choice):
            return rng.choice(list(domain.options))
        return rng.randint(domain.low, domain.high)

    while True:
        with suppress(InvalidInput):  # a cell in which nothing goes to the output
            found: Architecture = space.fill(NETWORKS, ask)
            return found


@pytest.mark.slow
@given(st.integers(0, 10**6))
def test_what_a_space_makes_is_an_architecture_that_json_holds_and_the_builder_builds(seed: int) -> None:
    architecture = drawn(seed)
    assert Architecture.from_json(architecture.to_json()) == architecture
    module = Network(architecture, numeric=2, slots=(), outputs=1).eval()
    assert module(torch.zeros(4, 2), torch.zeros(4, 0, dtype=torch.int64)).shape == (4, 1)


@st.composite
def cells(draw: Any) -> Cell:
    nodes = draw(st.integers(2, 4))
    pairs = [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=1, unique=True))
    edges = tuple(Edge(source=i, target=j, layers=draw(st.sampled_from(LAYERS))) for i, j in chosen)
    try:
        return Cell(edges=edges)
    except InvalidInput:
        return Cell(edges=(*edges, Edge(source=0, target=max(j for _, j in chosen))))


@pytest.mark.slow
@given(cells())
def test_a_cell_computes_what_its_nodes_say(cell: Cell) -> None:
    torch.manual_seed(0)
    module: Any = Network(Architecture(layers=(cell,)), numeric=3, slots=(), outputs=1).body[0].eval()
    parts = dict(zip(module.edges, module.inner, strict=True))
    last = max(edge.target for edge in cell.edges)

    def value(node: int, x: torch.Tensor) -> torch.Tensor | None:
        """By its definition, from the output back: None of what the input does not reach."""
        if node == 0:
            return x
        into = [(edge, value(edge.source, x)) for edge in cell.edges if edge.target == node]
        found = [parts[edge](before) for edge, before in into if before is not None]
        return sum(found[1:], found[0]) if found else None

    x = torch.randn(6, 3)
    expected = value(last, x)
    assert expected is not None
    torch.testing.assert_close(module(x), expected)
    used = {edge for edge in cell.edges if edge in parts}
    assert used == set(module.edges)


@pytest.mark.slow
@given(cells(), st.randoms(use_true_random=False))
def test_cells_that_differ_in_the_order_of_their_nodes_or_by_dead_ends_are_one_network(cell: Cell, rng: Any) -> None:
    last = max(edge.target for edge in cell.edges)
    for order in permutations(range(1, last)):
        place = {0: 0, last: last, **dict(zip(range(1, last), order, strict=True))}
        moved = [
            Edge(source=place[e.source], target=place[e.target], layers=e.layers)
            for e in cell.edges
            if place[e.source] < place[e.target]
        ]
        if len(moved) < len(cell.edges):
            continue
        rng.shuffle(moved)
        assert same(Cell(edges=tuple(moved))) == same(cell)
    longer = [Edge(source=e.source, target=e.target + (e.target == last), layers=e.layers) for e in cell.edges]
    dead = Edge(source=0, target=last, layers=(Dense(units=2),))
    assert same(Cell(edges=(*longer, dead))) == same(cell)


def test_other_operations_and_shared_nodes_are_other_networks() -> None:
    one = Cell(edges=(Edge(source=0, target=1, layers=(Dense(units=3),)), Edge(source=1, target=2)))
    other = Cell(edges=(Edge(source=0, target=1, layers=(Dense(units=4),)), Edge(source=1, target=2)))
    assert same(one) != same(other)
    to, on = (Dense(units=3),), (Activation(),)
    shared = Cell(
        edges=(
            Edge(source=0, target=1, layers=to),
            Edge(source=1, target=2, layers=on),
            Edge(source=1, target=3, layers=on),
            Edge(source=2, target=3),
        )
    )
    assert same(shared) != same(one)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Edge(source=1, target=1), "does not go forward"),
        (lambda: Cell(edges=()), "nothing goes from its input to its output"),
        (lambda: Cell(edges=(Edge(source=1, target=2),)), "nothing goes from its input to its output"),
        (lambda: Cell(edges=({},)), "must be a tuple of Edge"),
        (lambda: vocabulary.cell(1, name="c"), "must be at least 2"),
    ],
)
def test_what_is_no_cell_is_refused(make: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make()


def same(cell: Cell) -> str:
    return vocabulary.same_network(Architecture(layers=(cell,)))
