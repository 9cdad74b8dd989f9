"""thumbnail, groups, Groups: pictures that show the same, also when they were saved again, made smaller or mirrored.

    image -> thumbnail (32, 32) uint8 -> equal ones are one group
          -> hash of 64 bits -> candidates that differ in at most 4 bits -> confirmed by correlation, whole and locally -> groups

The hash is ImageHash's difference hash (Krawetz 2013): one bit a neighbouring pair of an 8 x 9 grey picture. Two pictures of one scene can
have it in common, so it only proposes; a pair counts when its thumbnails correlate.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Pixels a side of a thumbnail."""
MAX_DISTANCE = 4
"""Bits of 64 in which the hashes of two saves of one picture may differ."""
MIN_CORRELATION = 0.97
"""Of two thumbnails, normalised; below it they are two pictures."""
MIN_LOCAL_CORRELATION = 0.95
"""The mean over the blocks of BLOCK x BLOCK pixels that are not flat in both. The whole correlates also where only the silhouettes are the
same: of 590 such pairs of 64 different drawn round things, 0.943 was exceeded by 1 %; of 350 photographs, 99 % of the copies saved again,
made grey, darker, mirrored or a third as large keep 0.975."""
BLOCK = 8
MIN_DEVIATION = 5.0
"""Grey levels, standard deviation of a thumbnail; a flatter picture correlates with everything flat."""
MAX_BUCKET = 50
"""More pictures than this with one key are too uniform to tell by it."""
_BANDS = (11, 11, 11, 11, 10, 10)
"""64 bits in six bands. Where at most 4 bits differ, at least two bands are equal, so a key of two bands finds every pair."""


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """The image in grey, (32, 32) uint8, whatever its shape.

    Bicubic: a picture saved at half its size then differs in at most 2 bits (150 photographs); averaged by boxes, in up to 6.
    """
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0).convert("L"), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Groups:
    """Which pictures show the same."""

    members: list[list[int]]
    """Positions, two or more a group, in ascending order; by their first."""
    uniform: list[int]
    """Positions of pictures that are too uniform to tell: flat ones, and those that share their keys with too many."""


def groups(thumbnails: NDArray[np.uint8]) -> Groups:
    """Group pictures by their thumbnails (N, 32, 32) uint8, which may be a memory-mapped file.

    A group is closed: what shows the same as one member belongs to it. Time grows with N log N and the number of look-alikes.
    """
    upright = _hashes(thumbnails)
    mirrored = _hashes(thumbnails[:, :, ::-1])
    flat = {position for position, one in enumerate(thumbnails) if one.std() < MIN_DEVIATION}
    crowded: set[int] = set()
    parents = _equal(thumbnails, flat)
    for one, other, is_mirrored in _candidates(upright, mirrored, crowded):
        if one in flat or other in flat or _root(parents, one) == _root(parents, other):
            continue
        picture = thumbnails[other][:, ::-1] if is_mirrored else thumbnails[other]
        if same(thumbnails[one], picture):
            first, second = sorted((_root(parents, one), _root(parents, other)))
            parents[second] = first
    found: dict[int, list[int]] = {}
    for position in range(len(thumbnails)):
        found.setdefault(_root(parents, position), []).append(position)
    members = [group for group in found.values() if len(group) > 1]
    grouped = {position for group in members for position in group}
    return Groups(members, sorted((flat | crowded) - grouped))


def same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two thumbnails (32, 32) uint8, neither of them flat, are of one picture."""
    if _correlation(one.reshape(1, -1), other.reshape(1, -1))[0] < MIN_CORRELATION:
        return False
    mine, theirs = _blocks(one), _blocks(other)
    structured = np.maximum(mine.std(axis=1), theirs.std(axis=1)) >= MIN_DEVIATION
    return not structured.any() or float(_correlation(mine[structured], theirs[structured]).mean()) >= MIN_LOCAL_CORRELATION


def _equal(thumbnails: NDArray[np.uint8], flat: set[int]) -> list[int]:
    """The parent of each position, where pixel-equal thumbnails have one: however many there are, they show the same."""
    first: dict[bytes, int] = {}
    return [
        position if position in flat else first.setdefault(hashlib.sha256(one.tobytes()).digest(), position)
        for position, one in enumerate(thumbnails)
    ]


def _hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(N,) uint64."""
    bits = [imagehash.dhash(Image.fromarray(np.ascontiguousarray(one))).hash.ravel() for one in thumbnails]
    return np.packbits(np.array(bits, dtype=bool).reshape(-1, 64), axis=1).view(np.uint64).ravel()


def _candidates(upright: NDArray[np.uint64], mirrored: NDArray[np.uint64], crowded: set[int]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of positions whose hashes differ in at most MAX_DISTANCE bits, some more than once; notes those left out as crowded.

    Each pair is found where two of its bands are equal, by sorting; a mirrored picture takes part with its second hash.
    """
    number = len(upright)
    hashes = np.concatenate([upright, mirrored])
    bands = _bands_of(hashes)
    for first, second in combinations(range(len(_BANDS)), 2):
        keys = (bands[first] << np.uint64(16)) | bands[second]
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(keys[order])) + 1])
        sizes = np.diff(np.append(starts, len(order)))
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
            bucket = order[start : start + size]
            positions = bucket % number
            if bucket[0] >= number:  # nothing upright in it: mirrored ones among themselves say nothing new
                continue
            if len(set(positions.tolist())) > MAX_BUCKET:
                crowded.update(positions.tolist())
                continue
            for place, one in enumerate(bucket):
                others = bucket[place + 1 :]
                if one >= number:
                    break
                near = others[np.bitwise_count(hashes[others] ^ hashes[one]) <= MAX_DISTANCE]
                yield from ((int(one), int(other % number), bool(other >= number)) for other in near if other % number != one)


def _bands_of(hashes: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
    bands, shift = [], 0
    for width in _BANDS:
        bands.append((hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1))
        shift += width
    return bands


def _blocks(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(16, 64): the pixels of each block."""
    across = SIDE // BLOCK
    return thumbnail.reshape(across, BLOCK, across, BLOCK).swapaxes(1, 2).reshape(across**2, BLOCK**2)


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pearson's, row by row; 0 where a row is all the same."""
    mine, theirs = (rows - rows.mean(axis=1, keepdims=True) for rows in (one.astype(np.float64), other.astype(np.float64)))
    scale = np.sqrt((mine**2).sum(axis=1) * (theirs**2).sum(axis=1))
    found: NDArray[np.float64] = (mine * theirs).sum(axis=1) / np.maximum(scale, 1e-9)
    return found


def _root(parents: list[int], position: int) -> int:
    while parents[position] != position:
        parents[position] = parents[parents[position]]
        position = parents[position]
    return position
