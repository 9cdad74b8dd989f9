"""M01 to M05: each kind of dead computation is told from the others, and no healthy trick is taken for one."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from catdog.doctor import Intent, Patient, Report
from catdog.doctor.model.branches import EXAMINATIONS
from catdog.doctor.visit import visit
from tests.examples import discarded_unet


class Network(nn.Module):
    """A stem, a branch beside it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def pooled(self, maps: Tensor) -> Tensor:
        return self.head(self.drop(maps.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return self.pooled(maps + self.branch(maps))


class Discarded(Network):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        better = self.branch(maps)  # noqa: F841 - the bug
        return self.pooled(maps)


class Detached(Network):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps + self.branch(maps).detach()
        return self.pooled(maps)


class WithoutGradient(Network):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.stem(images)
        return self.pooled(maps + self.branch(maps))


class Forgotten(Network):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return self.pooled(maps + self.branch(maps))


class ForgottenScale(Network):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


class Untrained(Network):
    def __init__(self) -> None:
        super().__init__()
        self.sharpen = nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps + self.branch(maps)
        return self.pooled(maps if self.training else self.sharpen(maps))


class Optional(Network):
    """Deep supervision that is switched off, as nnU-Net's: named in forward, and not used."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Linear(8, 2)
        self.supervised = False

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        if self.supervised:
            return self.deep(maps.mean(dim=(2, 3)))
        return self.pooled(maps + self.branch(maps))


class Shortened(Network):
    """Leaves out on purpose what its base has: it would have to build everything anew otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        return self.pooled(self.stem(images))


class Dropped(Network):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = maps + self.branch(maps)
        self.drop(maps)
        return self.head(maps.mean(dim=(2, 3)))


class Auxiliary(Network):
    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        maps = self.stem(images)
        return self.pooled(maps + self.branch(maps)), self.aux(maps.mean(dim=(2, 3)))


class LayerDrop(Network):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        if not self.training or random.random() < 0.5:
            maps = maps + self.branch(maps)
        return self.pooled(maps)


class Checkpointed(Network):
    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return self.pooled(maps + checkpoint(self.branch, maps, use_reentrant=True))


class Functional(Network):
    """The weight is used, the module never called."""

    def pooled(self, maps: Tensor) -> Tensor:
        return functional.linear(self.drop(maps.mean(dim=(2, 3))), self.head.weight, self.head.bias)


class Truncated(nn.Module):
    """An encoder of which only the first part is used, from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Network()
        self.classify = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.encoder.stem(images).mean(dim=(2, 3)))


def examined(network: nn.Module, *, loss: Callable[..., Tensor] | None = None, intent: Intent | None = None) -> Report:
    torch.manual_seed(0)
    batch = torch.randn(8, 3, 12, 12), torch.arange(8) % 2
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    patient = Patient(network, batch, loss or nn.CrossEntropyLoss(), optimizer, intent=intent or Intent())
    return visit(patient, EXAMINATIONS, budget=600)


@pytest.mark.parametrize(
    ("kind", "code", "severity", "culprit", "line"),
    [
        (Discarded, "M01", "error", "branch", "better = self.branch(maps)"),
        (Detached, "M03", "error", "branch", "maps = maps + self.branch(maps).detach()"),
        (WithoutGradient, "M03", "error", "stem", "with torch.no_grad():"),
        (Forgotten, "M02", "error", "norm", "self.norm = nn.BatchNorm2d(8)"),
        (ForgottenScale, "M02", "warning", "scale", "self.scale = nn.Parameter"),
        (Untrained, "M02", "error", "sharpen", "self.sharpen = nn.Conv2d(8, 8, 1)"),
        (Optional, "M02", "warning", "deep", "self.deep = nn.Linear(8, 2)"),
        (Truncated, "M02", "warning", "encoder.branch", ""),
        (Shortened, "M02", "warning", "branch", "self.branch = nn.Sequential("),
        (Dropped, "M05", "error", "drop", "self.drop(maps)"),
    ],
)
def test_each_kind_is_named_with_its_culprit_and_line(kind: type[nn.Module], code: str, severity: str, culprit: str, line: str) -> None:
    report = examined(kind())
    finding = report.findings[0]
    assert (finding.code, finding.severity) == (code, severity), report
    assert culprit in finding.culprit.what
    if line:
        file, number = (finding.culprit.where or ":0").split(":")
        assert file == "test_doctor_branches.py"
        assert line in Path(__file__).read_text().splitlines()[int(number) - 1]
    assert len(report.errors) <= 1


def test_a_head_that_the_loss_ignores_is_a_warning() -> None:
    report = examined(Auxiliary(), loss=lambda outputs, target: functional.cross_entropy(outputs[0], target))
    assert [(one.code, one.severity, one.culprit.what) for one in report.findings] == [("M04", "warning", "aux")]


@pytest.mark.parametrize("kind", [Network, LayerDrop, Checkpointed, Functional])
def test_nobody_healthy_is_accused(kind: type[nn.Module]) -> None:
    random.seed(0)
    assert examined(kind()).findings == ()


def test_what_is_said_to_be_unused_is_not_accused_and_a_waiver_that_nothing_needs_is() -> None:
    assert examined(Forgotten(), intent=Intent(unused_ok=("norm",))).findings == ()
    (finding,) = examined(Network(), intent=Intent(unused_ok=("norm",))).findings
    assert (finding.severity, finding.culprit.what) == ("warning", "norm")


def test_what_is_frozen_is_not_missed() -> None:
    network = Detached()
    network.branch.requires_grad_(False)
    assert examined(network).findings == ()


def test_the_workshops_unet_is_told_with_blocks_shares_lines_and_what_was_meant() -> None:
    report = discarded_unet.main(budget=60)
    (finding,) = report.errors
    assert finding.code == "M01"
    assert finding.culprit.what == "down1, down2, down3, down4, up1, up2, up3, up4"
    assert finding.culprit.parameters == pytest.approx(0.999, abs=0.001)
    assert finding.culprit.flops == pytest.approx(0.962, abs=0.01)
    text = str(finding)
    assert "x1_up = self.up4(x2_up, x1)   discarded_unet.py:49" in text
    assert "y = self.conv1(x1)   discarded_unet.py:50" in text
    assert "did you mean x1_up?" in text
