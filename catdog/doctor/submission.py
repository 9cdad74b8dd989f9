"""examine_submitted: anyone's own network, out of their file or by its name, on pictures of a data set.

Whatever their code does wrong is a finding, with the line where it is known. What it prints goes to standard error.
"""

import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from catdog import balance, loaders, models
from catdog.catalogue import IMAGENET_MEAN, IMAGENET_STD
from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.doctor import patients
from catdog.doctor.catalogue import EXAMINATIONS
from catdog.doctor.consultation import BUDGET
from catdog.doctor.findings import Culprit, Finding, Report
from catdog.doctor.gate import visited
from catdog.doctor.patient import ANY_ERROR, PROBE, Intent, Patient
from catdog.errors import BadInput
from catdog.images import Preprocess
from catdog.loaders import Pictures

RATE = 1e-3
"""Of the AdamW that trains it for the look; torch's default."""
STAND_IN = "resnet18"
"""Of what a config says beside the network, which is another one here."""

Input = Literal["images", "pixels"]


class Refused(Exception):
    """There is no network to look at; `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def examine_submitted(source: str, dataset: Dataset, *, image_size: int | None, given: Input, budget: float = BUDGET) -> Report:
    """Examine a network on pictures of `dataset`, with cross-entropy and AdamW in the usual loop.

    Args:
        source: a name of `catdog models list`, or FILE.py:Class, of a class or function that needs no arguments but `labels` and
            `image_size`.
        dataset: what it would be trained on.
        image_size: side of the square; None: what a network of the catalogue is looked at with, for others 224.
        given: what a network from a file takes, images (N, 3, S, S) float normalised as torchvision does, or pixels (N, S, S, 3) uint8.
        budget: seconds; what they do not reach is listed.

    Raises:
        BadInput: there is no such file; the name is no network's, or it takes no such size.
    """
    file, _, name = source.rpartition(":")
    is_file = file.endswith(".py")
    config = TrainConfig.parse({
        "dataset": dataset.id, "model": STAND_IN if is_file else source, "weights": "none", "augment": "none",
        **({} if image_size is None else {"image_size": image_size}),
    })
    size = config.image_size if is_file or image_size else patients.glance_size(source, config.image_size)
    transform = normalised if is_file and given == "images" else Tensor.clone
    with redirect_stdout(sys.stderr), _importing_from(Path(file).parent) if is_file else nullcontext():
        try:
            if is_file:
                network = built(imported(Path(file), name), source, labels=len(dataset.labels), image_size=size)
            else:
                network = models.build(source, labels=dataset.labels, weights="none", image_size=size, weights_folder=None)
        except Refused as refused:
            return Report((refused.finding,), not_run={one.code: "no network" for one in EXAMINATIONS})
        network.train()
        return visited(lambda: _patient(network, dataset, config, size, transform), EXAMINATIONS, ends=time.monotonic() + budget)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Imports look there first, as they do for a file that Python runs; not afterwards: a file may be called like one of Python's."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):  # their code may have taken it out itself
            sys.path.remove(entry)


def normalised(pixels: Tensor) -> Tensor:
    """(S, S, 3) or (N, S, S, 3) uint8 -> (3, S, S) or (N, 3, S, S) float32, as torchvision's Normalize makes it."""
    values = (pixels / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return values.movedim(-1, -3).contiguous()


def imported(file: Path, name: str) -> Callable[..., Any]:
    """A class or function of somebody's file, which is run for that.

    Raises:
        BadInput: there is no such file.
        Refused: it does not import, or has no such name.
    """
    if not file.is_file():
        raise BadInput(f"Expected a Python file. Received: {file}, which is none.", remedy="Look at the path; it is FILE.py:Class.")
    # Under a name of its own: a file may be called random.py, and others must go on to find theirs.
    spec = importlib.util.spec_from_file_location(f"submitted_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"Expected a Python file. Received: {file}.", remedy="Look at the path; it is FILE.py:Class.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look for it
    try:
        spec.loader.exec_module(module)
    except ANY_ERROR as error:
        raise _refused(f"{file.name} cannot be imported", str(file), error, "Run it with Python alone until it imports.") from error
    if not callable(found := getattr(module, name, None)):
        raise _refused(
            f"{file.name} has no class or function {name!r}", str(file), None, f"Name one of its own: {', '.join(_own(module, name))}.",
        )
    return found  # type: ignore[no-any-return]


def built(make: Callable[..., Any], source: str, **known: int) -> nn.Module:
    """Call a class or function with what is `known` of what it has parameters for, and nothing else.

    Raises:
        Refused: it needs other arguments, raises, or gives no network.
    """
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:  # written in C
        parameters = inspect.signature(lambda: None).parameters
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unknown = [one for one in parameters.values() if one.kind not in variable and one.name not in known]
    needed = [one.name for one in unknown if one.default is one.empty]
    if needed:
        raise _refused(
            f"{source} needs arguments that nobody here can know: {', '.join(needed)}", source, None,
            "Give them defaults, or name a function that calls it: def mine(labels): return Mine(...).",
        )
    try:
        network = make(**{name: value for name, value in known.items() if name in parameters})
    except ANY_ERROR as error:
        raise _refused(f"{source} cannot be built", source, error, "Build it with Python alone until it works.") from error
    if not isinstance(network, nn.Module):
        raise _refused(f"{source} gives a {type(network).__name__}, and no torch.nn.Module", source, None, "Return the network.")
    if any(tensor.is_meta for tensor in network.parameters()):
        raise _refused(f"{source} lies on the device meta, which holds no numbers", source, None, "Build it on the CPU.")
    return network


def _patient(network: nn.Module, dataset: Dataset, config: TrainConfig, size: int, transform: Callable[[Tensor], Tensor]) -> Patient:
    preprocess = Preprocess(size, crop=1.0)
    splits = balance.select(dataset.records, dataset.labels, config)
    pictures = {name: Pictures(dataset, patients.sample(splits[name], seed=0), preprocess) for name in ("train", "val")}
    few = balance.draw(splits["train"], min(PROBE, len(splits["train"])), seed=0)
    whole = loaders.pixels(Pictures(dataset, few, preprocess), threads=1)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    is_normalised = transform is normalised
    data = patients.data_of(
        pictures, config, population=[record.label for name in pictures for record in splits[name]], transform=transform,
        normalise=(IMAGENET_MEAN, IMAGENET_STD) if is_normalised else None,
    )
    return Patient(
        network, (transform(whole.fetch(range(len(few)), 0)), whole.targets), functional.cross_entropy,
        AdamW(trained, lr=RATE) if trained else None, intent=Intent(loss="cross_entropy"), data=replace(data, loader=None),
    )


def _refused(message: str, source: str, error: BaseException | None, remedy: str) -> Refused:
    """With the innermost line of the user's own file, as Python would show it."""
    where: str | None = None
    evidence: tuple[str, ...] = ()
    if error is not None:
        evidence = (f"{type(error).__name__}: {error}"[:500],)
        own = Path(source.rpartition(":")[0] or source).name
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == own]
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{Path(error.filename).name}:{error.lineno}"
        elif lines:
            where = f"{own}:{lines[-1].lineno}"
    return Refused(Finding("M00", "error", f"{message}.", Culprit(source, where), evidence, remedy))


def _own(module: ModuleType, name: str) -> Sequence[str]:
    """What a module defines itself, the most similar first."""
    own = [key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", None) == module.__name__]
    return list(dict.fromkeys((*get_close_matches(name, own), *own)))[:10] or ["it defines none"]
