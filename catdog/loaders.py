"""Split, pixels, features: from a data set to batches of (pixels | features, target).

N images of a batch, S side, F features. The loop asks a Split for batches and cannot tell what they hold:
pixels (N, S, S, 3) uint8 for a whole network, features (N, F) float32 for a head on a frozen backbone.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from catdog.datasets import Dataset
from catdog.device import providers
from catdog.files import share_as_folder, write_atomically
from catdog.images import Preprocess, decode
from catdog.progress import Progress

CHUNK = 8
"""Images that one thread decodes and computes at a time: enough to amortise a call, few enough to share evenly."""


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a data set, in memory or on disk, as batches."""

    targets: Tensor
    """(images,) int64, in the order of the data set."""
    fetch: Callable[[Sequence[int]], Tensor]
    """From positions in the split to their inputs, stacked."""

    def __len__(self) -> int:
        return len(self.targets)

    def plan(self, batch_size: int, order: Sequence[int] | None = None) -> list[list[int]]:
        """The positions of each batch, in `order` (default: as it lies).

        A last batch of one image joins the batch before it: batch normalisation cannot take a single one.
        """
        positions = list(order) if order is not None else list(range(len(self)))
        batches = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
        if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [batches[-2] + batches[-1]]
        return batches

    def batches(self, batch_size: int, *, order: Sequence[int] | None = None, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, target (N,) int64) batch by batch, leaving out the first `skip`.

        The next batch is fetched while the caller works on this one.
        """
        planned = self.plan(batch_size, order)[skip:]
        with ThreadPoolExecutor(1, "fetch") as ahead:
            pending = [ahead.submit(self.fetch, batch) for batch in planned[:1]]
            for number, batch in enumerate(planned):
                inputs = pending.pop().result()
                pending = [ahead.submit(self.fetch, following) for following in planned[number + 1 : number + 2]]
                yield inputs, self.targets[batch]


def shuffled(images: int, *, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: a pure function of seed and epoch, so that a resumed run sees what the first would have."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(images, generator=generator).tolist()


def pixels(dataset: Dataset, split: str, preprocess: Preprocess, *, threads: int) -> Split:
    """A split as pixels (N, S, S, 3) uint8, decoded anew each time; Pillow lets other threads work meanwhile."""
    records = dataset.split(split)
    pool = ThreadPoolExecutor(threads, "decode")

    def fetch(positions: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.stack(list(pool.map(one, positions))))

    def one(position: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return preprocess.pixels(decode(dataset.read(records[position])))

    return Split(_targets(dataset, split), fetch)


def features(path: Path) -> Split:
    """A split as features (N, F) float32 that compute_features wrote, whole in memory."""
    with safe_open(path, "pt") as file:
        values, targets = file.get_tensor("features"), file.get_tensor("targets")
    return Split(targets, lambda positions: values[positions])


def compute_features(
    dataset: Dataset, split: str, *, graph: Path, preprocess: Preprocess, path: Path, threads: int, phase: str, device: str = "auto",
) -> Iterator[Progress]:
    """Run the frozen backbone once over a split and keep the result at `path`; yields step Progress of `phase` on the way.

    ONNX Runtime computes them on `device`, from the graph that will be served: 10 ms an image on 2 cores where eager
    torch takes 38 (EfficientNet-Lite0, torch 2.15, ONNX Runtime 1.32). One single-threaded session is shared by a thread
    per core, so that one thread decodes while another computes.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=providers(device))
    records = dataset.split(split)

    def chunk(start: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        images = [decode(dataset.read(record)) for record in records[start : start + CHUNK]]
        (values,) = session.run(["features"], {"pixels": np.stack([preprocess.pixels(image) for image in images])})
        return np.asarray(values, dtype=np.float32)

    parts = []
    pool = ThreadPoolExecutor(threads, "features")
    try:
        for part in pool.map(chunk, range(0, len(records), CHUNK)):
            parts.append(part)
            yield Progress("step", phase=phase, step=min(len(parts) * CHUNK, len(records)), steps=len(records))
    finally:
        pool.shutdown(cancel_futures=True)
    targets = _targets(dataset, split).numpy()
    with write_atomically(path) as unfinished:
        save_file({"features": np.concatenate(parts), "targets": targets}, unfinished)
        share_as_folder(unfinished)


def _targets(dataset: Dataset, split: str) -> Tensor:
    return torch.tensor([dataset.target(record) for record in dataset.split(split)], dtype=torch.int64)
