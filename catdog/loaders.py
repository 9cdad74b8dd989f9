"""Split, shuffled, pixels, fill, features, compute_features: from a data set to batches of (pixels | features, target).

N images of a batch, S side, F features. The loop asks a Split for batches and cannot tell what they hold:
pixels (N, S, S, 3) uint8 for a whole network, features (N, F) float32 for a head on a frozen backbone.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from catdog import device as devices
from catdog.augment import PRESETS, Augmentation, Look
from catdog.cache import Cache, Shape, bytes_of, key_of
from catdog.datasets import Dataset, Record
from catdog.errors import Unavailable
from catdog.files import share_as_folder, write_atomically
from catdog.images import Preprocess, decode
from catdog.progress import Progress

CHUNK = 8
"""Images that one thread decodes and computes at a time: enough to amortise a call, few enough to share evenly."""
AHEAD = 2
"""Batches that are fetched while the caller works on one: one that is ready, one in the making."""
REPEAT = 1_000_000
"""What a picture's second, third, ... draw in one epoch adds to the number of its look: more than there are epochs."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a data set, in memory or on disk, as batches."""

    targets: Tensor
    """(images,) int64, in the order of the records."""
    fetch: Callable[[Sequence[int], int], Tensor]
    """From positions in the split and the number of an epoch, which decides how each is augmented, to their inputs, stacked."""

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

    def batches(
        self, batch_size: int, *, order: Sequence[int] | None = None, skip: int = 0, epoch: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, target (N,) int64) batch by batch, leaving out the first `skip`.

        The next batches are fetched while the caller works on this one. A position that `order` repeats is looked at anew each time.
        """
        planned = self.plan(batch_size, order)
        looks = _looks(planned, epoch)[skip:]
        pool = ThreadPoolExecutor(1, "fetch")
        try:
            fetched = _ahead(pool, lambda draws: self._take(*draws), zip(planned[skip:], looks, strict=True), AHEAD)
            for batch, inputs in zip(planned[skip:], fetched, strict=True):
                yield inputs, self.targets[batch]
        finally:
            pool.shutdown(cancel_futures=True)

    def _take(self, positions: list[int], looks: list[int]) -> Tensor:
        """The inputs of a batch, each at its own look."""
        if len(set(looks)) <= 1:
            return self.fetch(positions, looks[0])
        inputs: list[Tensor] = [torch.empty(0)] * len(positions)
        for look in set(looks):
            places = [place for place, its in enumerate(looks) if its == look]
            for place, one in zip(places, self.fetch([positions[place] for place in places], look), strict=True):
                inputs[place] = one
        return torch.stack(inputs)


def _looks(planned: Sequence[Sequence[int]], epoch: int) -> list[list[int]]:
    """The number of each look at a picture: the epoch's at the first draw, another at each further one."""
    seen: Counter[int] = Counter()
    looks: list[list[int]] = []
    for batch in planned:
        looks.append([])
        for position in batch:
            looks[-1].append(epoch + REPEAT * seen[position])
            seen[position] += 1
    return looks


def _ahead(pool: Executor, function: Callable[[_T], _R], items: Iterable[_T], number: int) -> Iterator[_R]:
    """Yield function(item) in order, `number` more of them being under way while the caller works on one."""
    under_way: deque[Future[_R]] = deque()
    for item in items:
        under_way.append(pool.submit(function, item))
        if len(under_way) > number:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def shuffled(images: int, *, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: a pure function of seed and epoch, so that a resumed run sees what the first would have."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(images, generator=generator).tolist()


@dataclass(frozen=True, slots=True)
class _Decoding:
    """What is made of each picture once, whatever the epoch: the pixels that serving sees, or the draft of augmented views."""

    dataset: Dataset
    records: Sequence[Record]
    preprocess: Preprocess
    augmentation: Augmentation | None

    @classmethod
    def of(cls, dataset: Dataset, records: Sequence[Record], preprocess: Preprocess, augment: str) -> "_Decoding":
        return cls(dataset, records, preprocess, None if augment == "none" else Augmentation(preprocess, PRESETS[augment]))

    @property
    def key(self) -> str:
        """Under which the cache keeps them."""
        drafts = {} if self.augmentation is None else {"reach": self.augmentation.preset.reach, "detail": self.augmentation.preset.detail}
        return key_of([record.sha256 for record in self.records], preprocess=self.preprocess.to_dict(), drafts=drafts)

    @property
    def shapes(self) -> list[Shape]:
        """Known before any picture is decoded."""
        if self.augmentation is None:
            return [(self.preprocess.image_size, self.preprocess.image_size, 3)] * len(self.records)
        sizes = [self.augmentation.draft_size(record.width, record.height) for record in self.records]
        return [(height, width, 3) for width, height in sizes]

    def __call__(self, position: int) -> NDArray[np.uint8]:
        image = decode(self.dataset.read(self.records[position]))
        return self.preprocess.pixels(image) if self.augmentation is None else self.augmentation.draft(image)


def pixels(
    dataset: Dataset, records: Sequence[Record], preprocess: Preprocess, *, threads: int,
    cache: Cache | None = None, augment: str = "none", seed: int = 0,
) -> Split:
    """Records as pixels (N, S, S, 3) uint8: from the cache where `fill` has put them, else decoded anew each time.

    Without augmentation they are what Preprocess makes of them, to the bit. With it, each is the view of Look.draw for the seed, the
    epoch and the picture's content. Pillow and OpenCV let other threads work meanwhile.
    """
    decoding = _Decoding.of(dataset, records, preprocess, augment)
    found = cache.find(decoding.key, decoding.shapes) if cache is not None else None
    picture = decoding if found is None else found.__getitem__
    pool = ThreadPoolExecutor(threads, "decode")

    def one(position: int, epoch: int) -> NDArray[np.uint8]:
        if decoding.augmentation is None:
            return picture(position)
        record = records[position]
        look = Look.draw(decoding.augmentation.preset, seed=seed, epoch=epoch, content=record.sha256)
        return decoding.augmentation.view(picture(position), record.width, record.height, look)

    def fetch(positions: Sequence[int], epoch: int) -> Tensor:
        batch = np.empty((len(positions), preprocess.image_size, preprocess.image_size, 3), dtype=np.uint8)

        def share(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(positions))):
                batch[place] = one(positions[place], epoch)

        list(pool.map(share, range(0, len(positions), CHUNK)))
        return torch.from_numpy(batch)

    return Split(_targets(dataset, records), fetch)


def fill(
    dataset: Dataset, records: Sequence[Record], preprocess: Preprocess, *, cache: Cache, augment: str = "none", threads: int, phase: str,
) -> Iterator[Progress]:
    """Decode records into the cache, unless they are there or the cache is switched off; yields step Progress of `phase` on the way.

    Raises:
        Unavailable: the cache or its disk has no room for them. `pixels` works without.
    """
    decoding = _Decoding.of(dataset, records, preprocess, augment)
    key, shapes = decoding.key, decoding.shapes
    if cache.limit == 0 or cache.find(key, shapes) is not None:
        return
    remedy = "Raise CATDOG_CACHE_BYTES or free disk space to have later epochs quicker; nothing else depends on it."
    if not cache.holds(shapes):
        raise Unavailable(
            f"Expected room for {bytes_of(shapes)} bytes of decoded pictures. Received: a cache of {cache.limit}.", remedy=remedy,
        )
    pool = ThreadPoolExecutor(threads, "decode")
    try:
        for done in cache.make(key, shapes, lambda: _ahead(pool, decoding, range(len(records)), CHUNK * threads)):
            if done % CHUNK == 0 or done == len(records):
                yield Progress("step", phase=phase, step=done, steps=len(records))
    except OSError as error:  # whatever ails the cache: nothing depends on it
        raise Unavailable(f"Expected room for {bytes_of(shapes)} bytes of decoded pictures. Received: {error}.", remedy=remedy) from error
    finally:
        pool.shutdown(cancel_futures=True)


def features(path: Path) -> Split:
    """A split as features (N, F) float32 that compute_features wrote, whole in memory."""
    with safe_open(path, "pt") as file:
        values, targets = file.get_tensor("features"), file.get_tensor("targets")
    return Split(targets, lambda positions, _epoch: values[positions])


def compute_features(
    dataset: Dataset, records: Sequence[Record], *, graph: Path, preprocess: Preprocess, path: Path, threads: int, phase: str,
    device: str = "auto",
) -> Iterator[Progress]:
    """Run the frozen backbone once over records and keep the result at `path`; yields step Progress of `phase` on the way.

    ONNX Runtime computes them on `device`, from the graph that will be served: 10 ms an image on 2 cores where eager
    torch takes 38 (EfficientNet-Lite0, torch 2.15, ONNX Runtime 1.32). One single-threaded session is shared by a thread
    per core, so that one thread decodes while another computes.
    """
    session = devices.session(graph, device=device, threads=1)

    def chunk(start: int) -> NDArray[np.float32]:
        images = [decode(dataset.read(record)) for record in records[start : start + CHUNK]]
        (values,) = session.run(["features"], {"pixels": np.stack([preprocess.pixels(image) for image in images])})
        return np.asarray(values, dtype=np.float32)

    parts = []
    pool = ThreadPoolExecutor(threads, "features")
    try:
        for part in _ahead(pool, chunk, range(0, len(records), CHUNK), threads):
            parts.append(part)
            yield Progress("step", phase=phase, step=min(len(parts) * CHUNK, len(records)), steps=len(records))
    finally:
        pool.shutdown(cancel_futures=True)
    with write_atomically(path) as unfinished:
        save_file({"features": np.concatenate(parts), "targets": _targets(dataset, records).numpy()}, unfinished)
        share_as_folder(unfinished)


def _targets(dataset: Dataset, records: Iterable[Record]) -> Tensor:
    return torch.tensor([dataset.target(record) for record in records], dtype=torch.int64)
