"""Plain FastAPI with eager PyTorch, as PyTorch's own tutorials serve a network."""

import io
import sys
from typing import Annotated

import torch
import uvicorn
from fastapi import FastAPI, File
from PIL import Image

from tests.bench.servers.preparing import WORKERS, answer, network, transform

app = FastAPI()
model = network()


@app.post("/predict")
def predict(file: Annotated[bytes, File()]) -> dict[str, float]:
    image = Image.open(io.BytesIO(file)).convert("RGB")
    with torch.inference_mode():
        return answer(model(transform(image).unsqueeze(0)))


if __name__ == "__main__":
    uvicorn.run(f"{__spec__.name}:app", host="127.0.0.1", port=int(sys.argv[1]), workers=WORKERS, log_level="warning")
