"""LitServe with ONNX Runtime."""

import sys

import litserve as ls
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.bench.servers.preparing import NETWORK, WORKERS, answer, transform


class ClassifierAPI(ls.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.session = onnxruntime.InferenceSession(NETWORK / "network.onnx", providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # as in its documentation; it asks the annotation what comes
        image = Image.open(request["file"].file).convert("RGB")
        images: NDArray[np.float32] = transform(image).unsqueeze(0).numpy()
        return images

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run(None, {"images": x})[0]
        return logits

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, float]:
        return answer(torch.from_numpy(output))


if __name__ == "__main__":
    server = ls.LitServer(ClassifierAPI(), accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
