"""LitServe with eager PyTorch."""

import sys

import litserve as ls
import torch
from PIL import Image

from tests.bench.servers.preparing import WORKERS, answer, network, transform


class ClassifierAPI(ls.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.model = network().to(device)
        self.device = device

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # as in its documentation; it asks the annotation what comes
        image = Image.open(request["file"].file).convert("RGB")
        images: torch.Tensor = transform(image).unsqueeze(0).to(self.device)
        return images

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(x)

    def encode_response(self, output: torch.Tensor) -> dict[str, float]:
        return answer(output)


if __name__ == "__main__":
    server = ls.LitServer(ClassifierAPI(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
