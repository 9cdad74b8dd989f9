"""Guards, Updates: what is looked at while a training runs, between its steps and without a word to the loop.

T02  updates that stop or explode, by 64 numbers of each parameter, every 100 steps
T03  nothing learnt, or one answer for everything, from a fifth of the epochs on
T04  which pictures were really drawn
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catdog.config import TrainConfig
from catdog.doctor import curve
from catdog.doctor.findings import Culprit, Finding
from catdog.doctor.training.attendance import Attendance
from catdog.progress import Progress

EVERY = 100
"""Steps between two looks."""
SAMPLED = 64
"""Numbers of each parameter that are looked at."""
LOOKS = 5
"""In a row that have to say the same."""
STILL, WILD = 1e-8, 0.3
"""Length of an update as a share of the weights': below float32's resolution nothing moves, and such steps replace the weights."""
LEAP = 100.0
"""Times its own median, each by the learning rate of its step."""
LEARNS = 0.01
"""Of the highest learning rate: below it, as at the end of a cosine, standing still is right."""


class Guards:
    """Asked after everything that a training says; of each culprit each code speaks once."""

    def __init__(
        self, network: nn.Module, config: TrainConfig, attendance: Attendance, *, declared: dict[str, int], is_resumed: bool,
        labels: Sequence[str] = (),
    ) -> None:
        """`declared` are the pictures of each split that this process draws in an epoch."""
        self._config, self._labels, self._attendance, self._declared = config, labels, attendance, declared
        self._updates = Updates(network, config)
        self._epochs: list[dict[str, Any]] = []
        self._is_partial = is_resumed
        self._said: set[tuple[str, str]] = set()
        self._is_off = False

    def of(self, said: Progress) -> Iterable[Finding]:
        """What there is to say of it. What a guard fails at itself it says once, and is silent from then on."""
        if self._is_off or (said.kind == "step" and (said.step or 0) % EVERY > 1):  # nearly always: it must cost nothing
            return ()
        try:
            return list(self._news(said))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the doctor's, and the training goes on
            self._is_off = True
            return [Finding(
                "S00", "warning", "The doctor's own failure: the training goes on without its guards.", Culprit("catdog.doctor"),
                (f"{type(error).__name__}: {error}"[:500],), "Report it: it says nothing about the network.",
            )]

    def _news(self, said: Progress) -> Iterator[Finding]:
        found: Iterable[Finding] = ()
        if said.kind == "step" and said.learning_rate is not None:
            found = self._updates.look(said.step or 0, rate=said.learning_rate)
        elif said.kind == "epoch":
            found = (*self._learnt(said), *self._drawn())
        for finding in found:
            if (key := (finding.code, finding.culprit.what)) not in self._said:
                self._said.add(key)
                yield finding

    def _learnt(self, said: Progress) -> Iterator[Finding]:
        self._epochs.append({name: getattr(said, name) for name in said.__slots__})
        history = curve.History(self._epochs, self._config, self._labels)
        found = curve.collapse(history) or curve.nothing_learnt(history)
        if found is not None:
            yield Finding("T03", "warning", found.message, found.culprit, found.evidence, found.remedy)

    def _drawn(self) -> Iterator[Finding]:
        # An epoch that was begun by an earlier attempt, or ends with its budget, is drawn in part.
        is_whole = not self._is_partial and self._config.max_minutes is None
        self._is_partial = False
        yield from self._attendance.close({name: number for name, number in self._declared.items() if is_whole or name != "train"})


class Updates:
    """The same few numbers of each parameter before and after one step in EVERY."""

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        self._highest = config.learning_rate
        self._parameters = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        self._places: list[Tensor] = []
        self._modules: dict[str, NDArray[np.int64]] = {}
        self._before: tuple[int, NDArray[np.float32]] | None = None
        self._ratios: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LOOKS))
        self._paces: defaultdict[str, list[float]] = defaultdict(list)

    def look(self, step: int, *, rate: float) -> Iterator[Finding]:
        """After optimizer step `step`, which was made with that learning rate."""
        before, self._before = self._before, None
        if step % EVERY == 0:
            self._before = step, self._sampled([parameter for _, parameter in self._parameters])
        elif before is not None and step == before[0] + 1 and rate > LEARNS * self._highest:
            yield from self._compared(step, before[1], rate)

    def _compared(self, step: int, before: NDArray[np.float32], rate: float) -> Iterator[Finding]:
        after = self._sampled([parameter for _, parameter in self._parameters])
        gradients = self._sampled([parameter.grad for _, parameter in self._parameters])
        for module, numbers in self._modules.items():
            weights, moved, gradient = (
                math.sqrt(float(one @ one)) for one in (before[numbers], after[numbers] - before[numbers], gradients[numbers])
            )
            if not 0 < gradient < math.inf or weights == 0:  # no step was meant, or float16's scaler left it out
                continue
            ratio = moved / weights
            self._ratios[module].append(ratio)
            yield from self._judged(module, step, rate, ratio)
            self._paces[module].append(ratio / rate)

    def _judged(self, module: str, step: int, rate: float, ratio: float) -> Iterator[Finding]:
        ratios, paces = self._ratios[module], self._paces[module]
        shown = ("the last updates as a share of the weights: " + ", ".join(f"{one:.1e}" for one in ratios), f"at step {step}")
        if len(ratios) == LOOKS and max(ratios) < STILL:
            yield Finding(
                "T02", "warning", f"{module} has gradients and does not move.", Culprit(module), shown,
                "Is it among the optimizer's parameters? Is the update too small for its precision?",
            )
        elif len(ratios) == LOOKS and min(ratios) > WILD:
            yield Finding(
                "T02", "warning", f"Every step replaces most of what {module} has learnt.", Culprit(module), shown,
                "Lower learning_rate, or clip the gradient (clip_norm).",
            )
        elif len(paces) >= LOOKS and ratio / rate > LEAP * median(paces) > 0:
            yield Finding(
                "T02", "warning", f"An update of {module} was {ratio / rate / median(paces):.0f} times as long as usual.", Culprit(module),
                shown, "Clip the gradient (clip_norm), and look at the pictures of that step.",
            )

    def _sampled(self, tensors: Sequence[Tensor | None]) -> NDArray[np.float32]:
        """Of each tensor the numbers at its places in memory, one after the other; zeros where there is none."""
        if not self._places:  # only now do the parameters lie where they are trained
            self._find_places()
        picked = [
            torch.zeros(len(places), device=places.device) if tensor is None else _in_memory(tensor.detach())[places].float()
            for tensor, places in zip(tensors, self._places, strict=True)
        ]
        return np.asarray(torch.cat(picked).cpu().numpy())

    def _find_places(self) -> None:
        members: defaultdict[str, list[int]] = defaultdict(list)
        begin = 0
        for name, parameter in self._parameters:
            number = min(SAMPLED, parameter.numel())
            # Whole numbers: float32 cannot name every place of a matrix with more than 2^24 of them.
            self._places.append(torch.arange(number, device=parameter.device) * (parameter.numel() - 1) // max(1, number - 1))
            members[name.rpartition(".")[0] or "the network"] += range(begin, begin + number)
            begin += number
        self._modules = {module: np.array(numbers) for module, numbers in members.items()}


def _in_memory(tensor: Tensor) -> Tensor:
    """Its numbers in the order in which they lie, without a copy of them where they lie side by side."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).reshape(-1)
    return tensor.reshape(-1)
