"""Training on Ray Train: `run` starts workers, `worker` is what each does, `policies` say what becomes of lost ones, `failures`
what is told of them."""

from __future__ import annotations

from mlplat.train._ray.run import learn_on_workers

__all__ = ["learn_on_workers"]
