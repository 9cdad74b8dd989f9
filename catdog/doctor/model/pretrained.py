"""M13 pretrained: whether the weights that the network is meant to start from are in it."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from itertools import takewhile

import torch
from torch import Tensor

from catdog.doctor.examination import CannotTell, Examination, examination
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.model.trace import eager
from catdog.doctor.patient import Patient

COVERED = 0.9
"""Share of the weights that fit by name and shape which must be the file's."""
SAME = 0.9
"""Cosine from which on two tensors count as one, trained a little further: of two random starts it is about 0."""
FEWEST = 64
"""Numbers in a tensor that its cosine says something of."""


@examination("M13", "pretrained", catches="strict=False that loads nothing, a wrong prefix, statistics that were left out")
def pretrained(patient: Patient) -> Iterator[Finding]:
    """An error where less than COVERED of what fits is loaded, or where nothing of the file is anywhere in the network."""
    if patient.intent.pretrained is None:
        raise CannotTell("no pretrained weights declared")
    network = eager(patient.model)
    ours = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    backbone = {name: value.detach() for name, value in ours.items() if not _matches(name, patient.intent.head)}
    theirs = {name: value.detach() for name, value in patient.intent.pretrained.items() if isinstance(value, Tensor)}
    if not backbone or not theirs:
        raise CannotTell("no weights to compare: the file or the backbone is empty")
    fits = _fits(backbone, theirs)
    told = {file: names for file, names in fits.items() if theirs[file].numel() >= FEWEST and not _is_constant(theirs[file])}
    missing = [file for file, names in told.items() if not any(_is_same(backbone[name], theirs[file]) for name in names)]
    fitting = sum(theirs[file].numel() for file in told)
    share = 1 - sum(theirs[file].numel() for file in missing) / fitting if fitting else 0.0
    if share < COVERED and (told or not _any_content(backbone, theirs)):
        yield _not_loaded(backbone, theirs, told, missing, share)
    elif share >= COVERED:
        yield from _statistics(backbone, theirs, fits)


def _not_loaded(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], told: Mapping[str, list[str]], missing: list[str], share: float,
) -> Finding:
    evidence = [f"{len(told) - len(missing)} of {len(told)} tensors that fit by name and shape are the file's, {share:.1%} of the weights"]
    without = [told[file][0] for file in missing] or list(ours)
    renamed = [(told[file][0], file) for file in missing if file not in told[file]]
    if renamed:
        evidence.append(f"the names differ: the file's {renamed[0][1]} is the network's {renamed[0][0]}")
    elif not told:
        evidence.append(f"no name of the file ends as one of the network does: {next(iter(theirs))} and {next(iter(ours))}")
    return Finding(
        "M13", "error", f"The pretrained weights are not in the network: {share:.0%} of what fits was loaded", Culprit(_common(without)),
        (*evidence, f"not loaded: {', '.join(without[:5])}{', ...' if len(without) > 5 else ''}"),
        "Load with strict=True, or read what load_state_dict returns, missing_keys and unexpected_keys, and mend the prefix.",
    )


def _statistics(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], fits: Mapping[str, list[str]]) -> Iterator[Finding]:
    """Running statistics that stand where batch normalisation begins, while the file has others: only parameters() was copied."""
    left = [
        names[0] for file, names in fits.items()
        if file.endswith(("running_mean", "running_var")) and theirs[file].numel() > 1 and not _is_initial(file, theirs[file])
        and all(_is_initial(file, ours[name]) for name in names)
    ]
    if left:
        yield Finding(
            "M13", "error", f"The weights were loaded and {len(left)} running statistics were not", Culprit(_common(left)),
            (f"{left[0]} is what batch normalisation begins with; the file has another", "the weights around it are those of the file"),
            "Load the whole state dict: running statistics are buffers, not parameters.",
        )


def _fits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The file's name -> the network's: the same shape, and names that differ in their beginning alone, by one part or a prefix."""
    by_end: dict[tuple[str, ...], list[str]] = {}
    for name in ours:
        by_end.setdefault(tuple(name.split(".")[-2:]), []).append(name)
    fits = {}
    for file, value in theirs.items():
        near = [(_nearness(name, file), name) for name in by_end.get(tuple(file.split(".")[-2:]), ()) if ours[name].shape == value.shape]
        near = [(nearness, name) for nearness, name in near if nearness[0] >= min(file.count("."), name.count("."))]
        if near:
            fits[file] = [name for nearness, name in near if nearness == max(near)[0]]
    return fits


def _nearness(one: str, other: str) -> tuple[int, int]:
    """Parts at the end that two names have in common; and, if as many, how little longer one is."""
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return common, -abs(one.count(".") - other.count("."))


def _is_same(one: Tensor, other: Tensor) -> bool:
    first, second = one.double().cpu().flatten(), other.double().cpu().flatten()
    return bool(torch.equal(first, second) or torch.nn.functional.cosine_similarity(first, second, dim=0) >= SAME)


def _any_content(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of the file is anywhere in the network, under whatever name: the second witness, by value."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for value in theirs.values():
        if value.numel() >= FEWEST and not _is_constant(value):
            shapes.setdefault(tuple(value.shape), []).append(value)
    return any(_is_same(value, other) for value in ours.values() for other in shapes.get(tuple(value.shape), ()))


def _is_constant(value: Tensor) -> bool:
    return bool((value == value.flatten()[0]).all()) if value.numel() else True


def _is_initial(name: str, value: Tensor) -> bool:
    return bool((value == (1 if name.endswith("var") else 0)).all())


def _common(names: list[str]) -> str:
    """What the paths of all of them begin with."""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared) or names[0]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


EXAMINATIONS: tuple[Examination, ...] = (pretrained,)
