"""Split, Splits, Pictures, Stopwatch, shuffled, pixels, fill, features, compute_features: from a data set to batches.

A batch is (pixels | features, target).

N images of a batch, S side, F features. The loop asks a Split for batches and cannot tell what they hold:
pixels (N, S, S, 3) uint8 for a whole network, features (N, F) float32 for a head on a frozen backbone.
"""

import time
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
from catdog.ranks import ALONE, Ranks
from catdog.schedules import steps_per_epoch

CHUNK = 8
"""Images that one thread decodes and computes at a time: enough to amortise a call, few enough to share evenly."""
AHEAD = 2
"""Batches that are fetched while the caller works on one: one that is ready, one in the making."""
REPEAT = 1_000_003
"""What a picture's second, third, ... draw in one epoch adds to the number of its look: more than there are epochs, and a prime, so that
it is another of a few views too."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a data set, in memory or on disk, as batches."""

    targets: Tensor
    """(images,) int64, in the order of the records."""
    fetch: Callable[[Sequence[int], int], Tensor]
    """From positions in the split and the number of an epoch, which decides how each is augmented, to their inputs, stacked."""
    names: Sequence[str] = ()
    """What each image's file was called, where that is known."""

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, positions: Sequence[int]) -> "Split":
        """Only the images at these positions."""
        names = [self.names[position] for position in positions] if self.names else ()
        return Split(self.targets[list(positions)], lambda own, epoch: self.fetch([positions[one] for one in own], epoch), names)

    def plan(self, batch_size: int, order: Sequence[int] | None = None, *, ranks: int = 1) -> list[list[int]]:
        """The positions of each batch, in `order` (default: as it lies): steps_per_epoch says how many, the last one takes what is left."""
        positions = list(order) if order is not None else list(range(len(self)))
        number = steps_per_epoch(len(positions), batch_size=batch_size, ranks=ranks)
        ends = [batch_size * turn for turn in range(1, number)] + [len(positions)]
        return [positions[batch_size * turn : ends[turn]] for turn in range(number)]

    def batches(
        self, planned: Sequence[Sequence[int]], *, skip: int = 0, epoch: int = 0, ranks: Ranks = ALONE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, target (N,) int64) of this rank batch by batch, leaving out the first `skip` of what `plan` gave.

        The next batches are fetched while the caller works on this one. A position that the plan repeats is looked at anew each time.
        """
        looks = _looks(planned, epoch)
        own = [(ranks.shard(batch), ranks.shard(look)) for batch, look in zip(planned, looks, strict=True)][skip:]
        pool = ThreadPoolExecutor(1, "fetch")
        try:
            fetched = _ahead(pool, lambda draws: devices.pinned(self._take(*draws)), own, AHEAD)
            for (batch, _), inputs in zip(own, fetched, strict=True):
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


@dataclass(frozen=True, slots=True)
class Splits:
    """What a training looks at."""

    train: Split
    val: Split
    train_eval: Split | None = None
    """A fixed part of train, as val is: not augmented."""


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


class Stopwatch:
    """Adds up how long things take to come."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Iterable[_T]) -> Iterator[_T]:
        """The same items."""
        coming, began = iter(items), time.monotonic()
        for item in coming:
            self.seconds += time.monotonic() - began
            yield item
            began = time.monotonic()


def shuffled(images: int, *, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: a pure function of seed and epoch, so that a resumed run sees what the first would have."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(images, generator=generator).tolist()


@dataclass(frozen=True, slots=True)
class Pictures:
    """Records as a network sees them: what is made of each once, whatever the epoch, and of that the view of an epoch."""

    dataset: Dataset
    records: Sequence[Record]
    preprocess: Preprocess
    augment: str = "none"
    seed: int = 0

    @property
    def augmentation(self) -> Augmentation | None:
        """None: a view is what Preprocess makes of a picture, to the bit."""
        return None if self.augment == "none" else Augmentation(self.preprocess, PRESETS[self.augment])

    @property
    def key(self) -> str:
        """Under which the cache keeps them."""
        drafts = {} if self.augmentation is None else {"reach": self.augmentation.preset.reach, "detail": self.augmentation.preset.detail}
        return key_of([record.sha256 for record in self.records], preprocess=self.preprocess.to_dict(), drafts=drafts)

    @property
    def shapes(self) -> list[Shape]:
        """Known before any picture is decoded."""
        augmentation = self.augmentation
        if augmentation is None:
            return [(self.preprocess.image_size, self.preprocess.image_size, 3)] * len(self.records)
        sizes = [augmentation.draft_size(record.width, record.height) for record in self.records]
        return [(height, width, 3) for width, height in sizes]

    @property
    def targets(self) -> Tensor:
        """(N,) int64."""
        return torch.tensor([self.dataset.target(record) for record in self.records], dtype=torch.int64)

    @property
    def names(self) -> list[str]:
        """What the files were called."""
        return [record.name for record in self.records]

    def decode(self, position: int) -> NDArray[np.uint8]:
        """What is made of a picture once: the pixels that serving sees, or the draft of augmented views."""
        data, augmentation = self.dataset.read(self.records[position]), self.augmentation
        return self.preprocess.pixels_of(data) if augmentation is None else augmentation.draft(decode(data))

    def view(self, picture: NDArray[np.uint8], position: int, epoch: int) -> NDArray[np.uint8]:
        """What is seen of it in an epoch, (S, S, 3): that of Look.draw for the seed, the epoch and the picture's content."""
        augmentation, record = self.augmentation, self.records[position]
        if augmentation is None:
            return picture
        look = Look.draw(augmentation.preset, seed=self.seed, epoch=epoch, content=record.sha256)
        return augmentation.view(picture, record.width, record.height, look)


def pixels(pictures: Pictures, *, threads: int, cache: Cache | None = None) -> Split:
    """Pictures as pixels (N, S, S, 3) uint8: from the cache where `fill` has put them, else decoded anew each time.

    Pillow and OpenCV let other threads work meanwhile.
    """
    found = cache.find(pictures.key, pictures.shapes) if cache is not None else None
    picture = pictures.decode if found is None else found.__getitem__
    side = pictures.preprocess.image_size
    pool = ThreadPoolExecutor(threads, "decode")

    def fetch(positions: Sequence[int], epoch: int) -> Tensor:
        batch = np.empty((len(positions), side, side, 3), dtype=np.uint8)

        def chunk(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(positions))):
                batch[place] = pictures.view(picture(positions[place]), positions[place], epoch)

        list(pool.map(chunk, range(0, len(positions), CHUNK)))
        return torch.from_numpy(batch)

    return Split(pictures.targets, fetch, pictures.names)


def fill(pictures: Pictures, *, cache: Cache, threads: int, phase: str) -> Iterator[Progress]:
    """Decode pictures into the cache, unless they are there or the cache is switched off; yields step Progress of `phase` on the way.

    Raises:
        Unavailable: the cache or its disk has no room for them. `pixels` works without.
    """
    key, shapes, number = pictures.key, pictures.shapes, len(pictures.records)
    if cache.limit == 0 or cache.find(key, shapes) is not None:
        return
    remedy = "Raise CATDOG_CACHE_BYTES or free disk space to have later epochs quicker; nothing else depends on it."
    if not cache.holds(shapes):
        raise Unavailable(
            f"Expected room for {bytes_of(shapes)} bytes of decoded pictures. Received: a cache of {cache.limit}.", remedy=remedy,
        )
    pool = ThreadPoolExecutor(threads, "decode")
    try:
        for done in cache.make(key, shapes, lambda: _ahead(pool, pictures.decode, range(number), CHUNK * threads)):
            if done % CHUNK == 0 or done == number:
                yield Progress("step", phase=phase, step=done, steps=number)
    except OSError as error:  # whatever ails the cache: nothing depends on it
        raise Unavailable(f"Expected room for {bytes_of(shapes)} bytes of decoded pictures. Received: {error}.", remedy=remedy) from error
    finally:
        pool.shutdown(cancel_futures=True)


def features(path: Path, names: Sequence[str] = ()) -> Split:
    """A split as features (N, F) float32 that compute_features wrote, whole in memory; epochs take turns with its views."""
    with safe_open(path, "pt") as file:
        values, targets = file.get_tensor("features"), file.get_tensor("targets")
    return Split(targets, lambda positions, epoch: values[epoch % len(values), positions], names)


def compute_features(
    pictures: Pictures, *, graph: Path, path: Path, threads: int, phase: str, device: str = "auto", views: int = 1,
    outputs: Sequence[str] = ("features",),
) -> Iterator[Progress]:
    """Run a graph once over `views` views of each picture and keep its outputs, each (views, N, ...) float32, and targets at `path`.

    Yields step Progress of `phase` on the way. ONNX Runtime computes on `device`, from the graph that will be served: 10 ms an image on
    2 cores where eager torch takes 38 (EfficientNet-Lite0, torch 2.15, ONNX Runtime 1.32). One single-threaded session is shared by a
    thread per core, so that one thread decodes while another computes.
    """
    session = devices.session(graph, device=device, threads=1)
    number = len(pictures.records)

    def chunk(start: int) -> list[NDArray[np.float32]]:
        """Of each output (views, CHUNK, ...): each picture is decoded once."""
        positions = range(start, min(start + CHUNK, number))
        decoded = [pictures.decode(position) for position in positions]
        seen = []
        for epoch in range(views):
            batch = np.stack([pictures.view(one, position, epoch) for one, position in zip(decoded, positions, strict=True)])
            seen.append(session.run(list(outputs), {"pixels": batch}))
        return [np.stack(values, dtype=np.float32) for values in zip(*seen, strict=True)]

    parts = []
    pool = ThreadPoolExecutor(threads, "features")
    try:
        for part in _ahead(pool, chunk, range(0, number, CHUNK), threads):
            parts.append(part)
            yield Progress("step", phase=phase, step=min(len(parts) * CHUNK, number), steps=number)
    finally:
        pool.shutdown(cancel_futures=True)
    kept = {name: np.concatenate(of_chunks, axis=1) for name, of_chunks in zip(outputs, zip(*parts, strict=True), strict=True)}
    with write_atomically(path) as unfinished:
        save_file(kept | {"targets": pictures.targets.numpy()}, unfinished)
        share_as_folder(unfinished)
