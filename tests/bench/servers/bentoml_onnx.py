"""BentoML with ONNX Runtime."""

import sys

import bentoml
import onnxruntime
import torch
from PIL.Image import Image

from tests.bench.servers.preparing import NETWORK, WORKERS, answer, transform


@bentoml.service(workers=WORKERS)
class Classifier:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(NETWORK / "network.onnx", providers=["CPUExecutionProvider"])

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, file: Image) -> dict[str, float]:
        images = transform(file.convert("RGB")).unsqueeze(0).numpy()
        return answer(torch.from_numpy(self.session.run(None, {"images": images})[0]))


if __name__ == "__main__":
    bentoml.serve(f"{__spec__.name}:Classifier", host="127.0.0.1", port=int(sys.argv[1]), blocking=True)
