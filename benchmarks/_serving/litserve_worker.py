"""Run by the peer's own Python: the model on LitServe, as its documentation has it. `python litserve_worker.py PORT MODEL`"""

import sys

import litserve
import torch


class Api(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.module = torch.load(sys.argv[2], weights_only=False)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # it would read a type as the body's
        return request["row"]

    def predict(self, row: list[float]) -> float:
        with torch.inference_mode():
            return float(self.module(torch.tensor([row]))[0, 0])

    def encode_response(self, output: float) -> dict[str, float]:
        return {"probability": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
