"""explained: where a number that is not finite came from. The step is made once more, watched, and its batch is kept."""

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from catdog import device as devices
from catdog.errors import NonFiniteLoss
from catdog.files import share_as_folder, write_atomically
from catdog.labels import listed
from catdog.learner import Learner
from catdog.mixing import Mixed

EVIDENCE = "non_finite"
"""The folder in a run folder that keeps the batch after which a number was not finite."""


def explained(
    error: NonFiniteLoss, learner: Learner, batch: Mixed, *, names: Sequence[str], random_state: Mapping[str, Tensor], folder: Path,
) -> NonFiniteLoss:
    """The error again, saying where it came from: the step is replayed once, with every module watched and anomaly detection on.

    Batch and random state are kept in `folder`/non_finite. The network is left as it is, but for batch statistics.
    """
    devices.restore_torch_random_state(dict(random_state))
    module, culprits = _replay(learner, batch)
    guilty = [names[position] for position in culprits] if names else []
    files = guilty or list(names)
    report = {"step": error.step, "message": error.message, "where": module, "files": files, "batch": list(names)}
    evidence = folder / EVIDENCE
    evidence.mkdir(exist_ok=True)
    with write_atomically(evidence / "batch.safetensors") as unfinished:
        save_file({"inputs": batch.inputs.cpu(), "target": batch.target.cpu(), **random_state}, unfinished)
        share_as_folder(unfinished)
    with write_atomically(evidence / "report.json") as unfinished:
        unfinished.write_text(json.dumps(report, indent=1))
    pictures = f" The pictures: {listed(files)}." if files else ""
    return NonFiniteLoss(
        f"{error.message} {module}{pictures} The batch is kept in {EVIDENCE}/ of the run's folder.", step=error.step, remedy=error.remedy,
    )


def _replay(learner: Learner, batch: Mixed) -> tuple[str, list[int]]:
    """A sentence that says where the first number that is not finite came up, and whose loss is not finite, by position in the batch."""
    broken = [name for name, parameter in learner.network.named_parameters() if not torch.isfinite(parameter).all()]
    if broken:
        return f"Already before the step these weights were not finite: {listed(broken)}.", []
    first: list[str] = []
    handles = list(_watch(learner.network, first))
    try:
        with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True, check_nan=True):
            warnings.simplefilter("ignore")  # that it is slow, and a traceback
            with learner.autocast():
                losses, weighted = learner.losses_of(learner.network(batch.inputs), batch.parts)
            culprits = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
            if first:
                return f"The first module with such an output is {first[0]}.", culprits
            if culprits:
                return f"Every module's output was finite; the loss {learner.config.loss} of them was not.", culprits
            return _backward(weighted.mean(), learner.parameters), []
    finally:
        for handle in handles:
            handle.remove()


def _backward(loss: Tensor, parameters: Sequence[nn.Parameter]) -> str:
    try:
        torch.autograd.grad(loss, parameters, allow_unused=True)
    except RuntimeError as error:  # what anomaly detection says: "Function 'LogBackward0' returned nan values in its 0th output."
        return f"The loss was finite; going backward, {str(error).rstrip('.')}."
    return "Replayed as a whole, every number was finite."


def _watch(network: nn.Module, first: list[str]) -> Iterator[RemovableHandle]:
    """Note the innermost module whose output is the first that is not finite."""

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if first or not isinstance(output, Tensor) or torch.isfinite(output).all():
            return
        values = [one for one in inputs if isinstance(one, Tensor) and one.is_floating_point()]
        sort = "; what came in was finite" if all(torch.isfinite(one).all() for one in values) else "; so was what came in"
        widest = max((float(one.abs().max()) for one in values if one.numel()), default=math.nan)
        first.append(f"{name or 'the network itself'} ({type(module).__name__}){sort}, at most {widest:.4g}")

    for name, module in network.named_modules():
        yield module.register_forward_hook(lambda module, inputs, output, name=name: look(name, module, inputs, output))
