"""Programs: they compute, and they can do nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from mlplat.errors import InvalidInput
from mlplat.model.program import Program, operator_of

WEIGHTS = {"w": np.array([[2.0], [3.0]], dtype=np.float32), "unused": np.zeros(4, dtype=np.int64)}
FITTING = {"w": ["float32", [2, 1]], "unused": ["int64", [4]]}
MM = ["aten.mm.default", [{"input": "numeric"}, {"weight": "w"}], {}]
NUMERIC = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
CODES = torch.zeros((3, 0), dtype=torch.int64)


def text(*steps: Any, output: Any = None, **parts: Any) -> str:
    spec = {"weights": FITTING, "constants": {}, "steps": steps, "output": output or {"step": len(steps) - 1}}
    return json.dumps({**spec, **parts})


def run(*steps: Any, **parts: Any) -> list[Any]:
    found: list[Any] = Program(text(*steps, **parts), WEIGHTS)(NUMERIC, CODES).tolist()
    return found


def test_steps_read_inputs_weights_constants_and_earlier_steps() -> None:
    one = {"one": ["float32", [1], "AACAPw=="]}
    assert run(MM, ["aten.add.Tensor", [{"step": 0}, {"constant": "one"}], {"alpha": 10}], constants=one) == [
        [12.0], [13.0], [15.0]
    ]  # fmt: skip


def test_sizes_several_results_and_named_values_are_arguments() -> None:
    steps = [
        ["aten.sym_size.int", [{"input": "numeric"}, 0], {}],
        ["mul", [{"step": 0}, 2], {}],
        [
            "aten.full.default",
            [[{"step": 1}], {"float": "inf"}],
            {"dtype": {"dtype": "float64"}, "device": {"device": "cpu"}},
        ],
        ["aten.topk.default", [{"step": 2}, {"step": 0}], {}],
        ["getitem", [{"step": 3}, 0], {}],
    ]
    assert run(*steps) == [float("inf")] * 3


def test_a_value_that_is_read_again_later_is_kept_until_then() -> None:
    twice = ["aten.add.Tensor", [{"step": 0}, {"step": 0}], {}]
    again = ["aten.add.Tensor", [{"step": 1}, {"step": 0}], {}]
    assert run(MM, twice, again) == [[6.0], [9.0], [15.0]]
    assert run(MM, twice, again, output={"step": 0}) == [[2.0], [3.0], [5.0]]


def test_a_program_changes_neither_weights_nor_inputs_and_keeps_weights_of_its_own() -> None:
    weights = {name: value.copy() for name, value in WEIGHTS.items()}
    program = Program(text(MM), weights)
    weights["w"][:] = 0.0
    assert program(NUMERIC, CODES).tolist() == [[2.0], [3.0], [5.0]]
    assert program(NUMERIC, CODES).tolist() == [[2.0], [3.0], [5.0]]


@pytest.mark.parametrize(
    "name",
    [
        "aten.add_.Tensor",  # changes what it reads
        "aten.add.out",
        "aten.from_file.default",
        "aten.save.default",
        "aten.set_grad_enabled.default",
        "aten.manual_seed.default",
        "aten._fw_primal.default",
        "aten.__class__.default",
        "aten.linear.__call__",
        "aten.linear",
        "torch.hub.load",
        "os.system",
        "prim.Print.default",
        "eval",
    ],
)
def test_what_does_not_merely_compute_cannot_be_called(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not an operator that a program may call"):
        operator_of(name)
    with pytest.raises(InvalidInput, match="is not an operator"):
        run([name, [], {}])


def test_no_operator_that_a_program_may_call_reads_a_file_or_changes_anything() -> None:
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
        try:
            operator_of(name)
        except InvalidInput:
            continue
        assert not any(argument.alias_info and argument.alias_info.is_write for argument in schema.arguments), name
        assert not {"file", "filename"} & {argument.name for argument in schema.arguments}, name


@pytest.mark.parametrize(
    "spelled",
    [
        "[]",
        "{}",
        "nothing",
        text(MM, output={"step": 1}),
        text(["aten.mm.default", [{"step": 0}, {"step": 1}], {}], MM),
        text(["aten.mm.default", [{"weight": "w2"}], {}]),
        text(["aten.mm.default", [{"weight": "w", "step": 0}], {}]),
        text(["aten.mm.default", [{"weight": ["w"]}], {}]),
        text(["aten.mm.default"]),
        text(["aten.zeros.default", [[1]], {"dtype": {"dtype": "load"}}]),
        text(["aten.zeros.default", [[1]], {"device": {"device": "cuda"}}]),
        text(MM, constants={"c": ["float32", [2], "AA=="]}),
        text(MM, constants={"c": ["object", [1], "AAAAAAAAAAA="]}),
    ],
)
def test_what_is_no_program_is_refused_before_anything_runs(spelled: str) -> None:
    with pytest.raises(InvalidInput, match="program"):
        Program(spelled, WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"w": WEIGHTS["w"]}, "'unused' is None, and should be"),
        ({**WEIGHTS, "more": WEIGHTS["w"]}, "'more' is .* and should be None"),
        ({**WEIGHTS, "w": WEIGHTS["w"].T}, r"'w' is \['float32', \[1, 2\]\]"),
        ({**WEIGHTS, "w": WEIGHTS["w"].astype(np.float64)}, "'w' is .'float64'"),
    ],
)
def test_weights_of_another_network_are_refused(weights: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"do not fit the program: {says}"):
        Program(text(MM), weights)
