"""Run by the peer's own Python: the model on BentoML, as its documentation has it. `bentoml serve`; MODEL names the module."""

import os

import bentoml
import torch


@bentoml.service(workers=1)
class Late:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.module = torch.load(os.environ["MODEL"], weights_only=False)

    @bentoml.api
    def predict(self, row: list[float]) -> dict[str, float]:
        with torch.inference_mode():
            return {"probability": float(self.module(torch.tensor([row]))[0, 0])}
