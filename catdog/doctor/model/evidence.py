"""Evidence: what several training steps of a network have in common, on which M01 to M05 agree or do not."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from catdog.doctor.examination import CannotTell
from catdog.doctor.model.trace import Call, Trace, eager, noisy
from catdog.doctor.patient import ANY_ERROR, Batch, Patient
from catdog.doctor.snapshot import Snapshot

STEPS = 16
"""With eight seeds, two batches each, before anything is accused: LayerDrop with p=0.5 leaves a layer out of all once in 65,536 times."""
FEWEST = 4
"""Steps that are made however long they take. Fewer than STEPS accuse only what ran in all of them: of the rest they warn."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What several steps have in common. Parameters by name."""

    patient: Patient
    network: nn.Module
    traces: tuple[Trace, ...]
    unreached: tuple[str, ...]
    """Those that require a gradient and never got one, in the order of the network."""
    discarded: tuple[str, ...]
    """Modules without parameters whose results never went anywhere."""

    @classmethod
    def of(cls, patient: Patient) -> "Evidence":
        """One step for a healthy network; STEPS of them, with two batches in turn, for one that looks as if it were not."""
        if "evidence" not in patient.known:
            patient.known["evidence"] = cls._gathered(patient)
        known: Evidence = patient.known["evidence"]
        return known

    @classmethod
    def _gathered(cls, patient: Patient) -> "Evidence":
        network, snapshot = eager(patient.model), Snapshot.of(patient)
        parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        suspects, discarded = set(parameters), set(dict(network.named_modules()))
        traces: list[Trace] = []
        began = time.monotonic()
        while (suspects or discarded) and len(traces) < STEPS:
            if len(traces) >= FEWEST and time.monotonic() - began > patient.patience:
                break
            for seed in (torch.manual_seed, random.seed, np.random.seed):
                seed(len(traces) // 2)
            trace = Trace.of(patient, batch=patient.batch if len(traces) % 2 == 0 else _mirrored(patient.batch))
            snapshot.restore()
            traces.append(trace)
            suspects -= {name for name in suspects if parameters[name] in trace.parameters}
            discarded &= set(_thrown_away(trace, network))
        unreached = tuple(name for name in parameters if name in suspects)
        return cls(patient, network, tuple(traces), unreached, tuple(path for path in traces[0].paths if path in discarded))

    @property
    def is_complete(self) -> bool:
        """Whether there were as many steps as it takes to accuse anybody."""
        return len(self.traces) == STEPS

    @property
    def ran(self) -> dict[str, list[Call]]:
        """The calls of every module that ran in any step, those of the first step in which it did, in order."""
        ran: dict[str, list[Call]] = {}
        for trace in self.traces:
            for path, calls in trace.paths.items():
                ran.setdefault(path, calls)
        return ran

    def share(self, names: Iterable[str]) -> float:
        """Of the trainable parameters."""
        sizes = {name: parameter.numel() for name, parameter in self.network.named_parameters() if parameter.requires_grad}
        return sum(sizes.get(name, 0) for name in names) / max(1, sum(sizes.values()))

    def changes_loss(self, paths: Sequence[str]) -> bool:
        """Whether noise in what these modules return is to be seen in the loss.

        Raises:
            CannotTell: two steps from one start have two losses, so that nothing can be said.
        """
        snapshot = Snapshot.of(self.patient)
        losses = []
        for disturbed in ((), (), paths):
            losses.append(noisy(self.patient, disturbed, seed=0))
            snapshot.restore()
        if losses[0] != losses[1]:
            raise CannotTell(f"two steps from one start have the losses {losses[0]} and {losses[1]}")
        return losses[2] != losses[0]

    def is_returned(self, name: str) -> bool:
        """Whether anything that the network returns is made of a parameter."""
        parameter = self.network.get_parameter(name)
        return any(getattr(node, "variable", None) is parameter for trace in self.traces for node in trace.returned)

    def is_idle(self, name: str) -> bool:
        """Whether a parameter's own module is alive without it."""
        return any(trace.is_live(owner(name)) for trace in self.traces)

    def roots(self, names: Sequence[str]) -> list[str]:
        """The largest modules that ran, all of whose trainable parameters are among `names`, in the order of their first call."""
        candidates = [name for name in names if owner(name) in self.ran and not self.is_idle(name)]
        roots = tops(candidates, lambda path: path in self.ran and not any(trace.is_live(path) for trace in self.traces))
        return [path for path in self.ran if path in roots]

    def flops(self, dead: Sequence[str]) -> float | None:
        """The share of a forward pass that is for nothing."""
        counter = FlopCounterMode(display=False)
        try:
            with counter, torch.no_grad():
                self.network(self.patient.batch[0])
        except ANY_ERROR:  # a network that the counter cannot follow has a report without this figure
            return None
        counts = {path.partition(".")[2]: sum(by_kind.values()) for path, by_kind in counter.get_flop_counts().items()}
        total = counter.get_total_flops()
        return sum(counts.get(path, 0) for path in dead) / total if total else None


def owner(name: str) -> str:
    """The path of the module that a parameter or module belongs to."""
    return name.rpartition(".")[0]


def is_in(name: str, root: str) -> bool:
    """Whether a parameter or module stands under a module, or is it."""
    return not root or name == root or name.startswith(root + ".")


def tops(names: Sequence[str], is_dead: Callable[[str], bool]) -> list[str]:
    """For each parameter the outermost module above it that is dead, all of whose trainable parameters are among `names`."""
    tops: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        paths = [".".join(parts[:length]) for length in range(1, len(parts))]
        tops[next((path for path in paths if is_dead(path)), name)] = None
    return list(tops)


def _thrown_away(trace: Trace, network: nn.Module) -> Iterator[str]:
    """Modules without parameters of which no call is behind the loss or behind what is returned."""
    for path, calls in trace.paths.items():
        module = network.get_submodule(path)
        if isinstance(module, nn.Identity) or next(module.parameters(), None) is not None:
            continue
        if all(call.nodes and not call.passes_on and not (trace.reached | trace.returned).intersection(call.nodes) for call in calls):
            yield path


def _mirrored(batch: Batch) -> Batch:
    """Another batch, of the same shape: where a network decides by its input which way to go, it may decide otherwise."""
    inputs, target = batch
    return (inputs.flip(-1) if inputs.ndim > 1 else inputs), target
