"""Checkpoints are whole or not there, keep what they were given, and say when they are broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlplat.train.checkpoints import Checkpoints, joined, parted

FILES = ("state.safetensors", "best.safetensors", "state.json")
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def write(
    checkpoints: Checkpoints, step: int, state: dict[str, Any], best: dict[str, torch.Tensor] | None = None
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    checkpoints.write(step, parted(state, tensors), tensors, best)


def filled(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        state = {
            "weights": {"a": torch.full((3,), float(step))},
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
        }
        write(checkpoints, step, state, best={"a": torch.zeros(2)} if step == 10 else None)
    return checkpoints


@pytest.mark.slow
@given(plain)
def test_any_nesting_of_plain_values_comes_back(state: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    assert joined(parted(state, tensors), {}) == state
    assert not tensors


def test_tensors_come_back_in_their_places_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    assert checkpoints.recover() == (20, [])
    read = checkpoints.read(20)
    assert read.state["weights"]["a"].tolist() == [20.0] * 3
    assert read.state["optimizer"]["state"][0]["step"].shape == ()
    assert read.best["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_broken_one_is_said_and_an_older_one_is_used(tmp_path: Path, name: str, damage: str) -> None:
    checkpoints = filled(tmp_path)
    file = tmp_path / f"{20:012d}" / name
    raw = bytearray(file.read_bytes())
    file.unlink()  # the best weights are a link to the older one's
    if damage != "gone":
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw)
    step, said = checkpoints.recover()
    assert step == 10
    assert "the checkpoint of step 20 is broken" in said[0]
    assert checkpoints.steps() == [10]


def test_two_are_kept(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    write(checkpoints, 30, {})
    assert checkpoints.steps() == [30, 20]
    assert checkpoints.read(30).best["a"].tolist() == [0.0, 0.0]


def test_one_of_a_lower_step_is_newer_where_steps_have_become_longer(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path)
    write(checkpoints, 15, {}, best={"a": torch.ones(2)})
    write(checkpoints, 16, {})
    assert checkpoints.recover() == (16, [])
    assert checkpoints.read(16).best["a"].tolist() == [1.0, 1.0]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = filled(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(checkpoints, 30, {"a": torch.zeros(3)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{10:012d}", f"{20:012d}"]
