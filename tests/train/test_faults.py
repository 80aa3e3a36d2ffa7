"""What ran out of memory is told in the user's terms, and loses nothing."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mlplat.clock import SystemClock
from mlplat.errors import UserCodeError
from mlplat.model import mlp
from mlplat.train.faults import lacks_memory, out_of_memory
from mlplat.train.gang import Alone
from mlplat.train.progress import Silent
from mlplat.train.science import Science
from mlplat.train.session import learn
from mlplat.train.settings import Recovery
from mlplat.train.work import Learned, Work
from tests.train.support import Greedy, settings, work


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_lacks_memory_is_known(error: Exception) -> None:
    assert lacks_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), OSError(errno.ENOSPC, "full"), KeyError()]
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert not lacks_memory(error)


def test_what_torch_and_numpy_say_today_is_known() -> None:
    for ask in (torch.empty, np.empty):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask(10**15)
        assert lacks_memory(caught.value)


def test_the_advice_fits_the_settings() -> None:
    try:
        torch.empty(10**15)
    except RuntimeError as error:
        wide = out_of_memory(error, settings(batch_size=512, accumulate=2), rank=1, size=2)
        shares = out_of_memory(error, settings(parallel="fsdp"), rank=0, size=1)
    assert wide.startswith("worker 1 of 2 ran out of memory, with 128 rows at a time: RuntimeError: ")
    assert "test_faults.py:" in wide
    assert "a batch_size below 512; accumulate=4" in wide
    assert 'parallel="fsdp"' in wide
    assert shares.startswith("the training ran out of memory, with 128 rows at a time")
    assert "fsdp" not in shares


def _run(one: Work) -> object:
    return learn(one, Alone(), Silent(), SystemClock(), lambda: False)


@pytest.mark.slow
def test_the_line_is_named_and_the_same_call_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    full = tmp_path / "full"
    greedy = Greedy(full)
    one = work(tmp_path, recovery=Recovery(steps=8), science=Science(network=mlp((16,), dropout=0.1), loss=greedy))
    calm = _run(one)
    calm_steps, greedy.steps = greedy.steps, 0
    shutil.rmtree(one.folder)
    full.write_text("20")
    with pytest.raises(
        UserCodeError, match=r"the training ran out of memory.*\n  at .*support\.py:\d+: torch\.empty\(TOO_MUCH\)\n"
    ) as caught:
        _run(one)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list((one.folder / "checkpoints").glob("[0-9]*"))
    full.unlink()
    greedy.steps = 0
    found = _run(one)
    assert isinstance(calm, Learned)
    assert isinstance(found, Learned)
    assert all(np.array_equal(value, found.weights[name]) for name, value in calm.weights.items())
    assert calm_steps - 20 <= greedy.steps < calm_steps
