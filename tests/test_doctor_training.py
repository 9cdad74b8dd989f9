"""What the doctor says about a short training: what it reads, and what it leaves."""

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from catdog.doctor import training as organ
from catdog.doctor.findings import Finding, Report
from catdog.doctor.patient import Patient, Training
from catdog.doctor.visit import visit
from tests.animals import Host, write

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2))


Items = Dataset[tuple[Tensor, int]]


@dataclass
class Loop:
    """A training as anyone writes it, each part of it to be replaced."""

    host: Host
    folder: Path
    epochs: int = 3
    lr: float = 0.05
    workers: int = 0
    val: str = "val"
    train: Callable[[Mapping[str, Items]], Items] = lambda sets: sets["train"]
    save_when: Callable[[float, float], bool] = lambda value, best: value < best
    keep: Callable[[nn.Module], dict[str, Tensor]] = lambda net: copy.deepcopy(net.state_dict())
    batches: Callable[["DataLoader[tuple[Tensor, int]]"], object] = lambda loader: loader
    worse: bool = True
    """The validation loss grows from epoch to epoch, as it does when a network learns by heart."""
    test_at_the_end: bool = True
    no_grad: bool = True
    strict: bool = True
    averaged: bool = False
    """What is validated and saved is the mean of the weights."""
    history: list[dict[str, float]] = field(default_factory=list)

    def fit(self) -> list[dict[str, float]]:
        torch.manual_seed(0)
        sets: dict[str, Items] = {name: split.items for name, split in self.data.splits.items()}  # type: ignore[misc]
        loaders = {name: DataLoader(own, batch_size=32, num_workers=self.workers) for name, own in sets.items()}
        loaders["train"] = DataLoader(self.train(sets), batch_size=8, shuffle=True, num_workers=self.workers)
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=self.lr)
        average = AveragedModel(net, use_buffers=True)
        best, self.history = float("inf"), []
        for epoch in range(self.epochs):
            net.train()
            for inputs, target in self.batches(loaders["train"]):  # type: ignore[attr-defined]
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(net(inputs), target))
                optimizer.step()
            average.update_parameters(net)
            value = evaluate(average if self.averaged else net, loaders[self.val], no_grad=self.no_grad)
            value += 10.0 * epoch if self.worse else 0.0
            self.history.append({"val_loss": value})
            if self.save_when(value, best):
                best = value
                self.saved = self.keep(average.module if self.averaged else net)
                torch.save(self.saved, self.folder / "best.pt")
        torch.save(self.saved, self.folder / "best.pt")
        if self.test_at_the_end:
            evaluate(net, loaders["test"])
        return self.history

    def best(self) -> nn.Module:
        net = network()
        net.load_state_dict(torch.load(self.folder / "best.pt", weights_only=True), strict=self.strict)
        return net

    def report(self) -> Report:
        self.data = self.host.data()
        someone = Patient(
            network(), (torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])), data=self.data,
            training=Training(self.fit, self.best),
        )
        return visit(someone, organ.EXAMINATIONS, budget=600)


def evaluate(net: nn.Module, loader: "DataLoader[tuple[Tensor, int]]", *, no_grad: bool = True) -> float:
    net.eval()
    total, number = 0.0, 0
    with torch.set_grad_enabled(not no_grad):
        for inputs, target in loader:
            total += float(nn.functional.cross_entropy(net(inputs), target, reduction="sum").detach())
            number += len(target)
    return total / number


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("animals") / "set"
    write(folder, {"train": (24, 24), "val": (10, 10), "test": (10, 10)})
    return folder


@pytest.fixture
def loop(files: Path, tmp_path: Path) -> Loop:
    shutil.copytree(files, tmp_path / "set")
    return Loop(Host({split: sorted((tmp_path / "set" / split).iterdir()) for split in ("train", "val", "test")}), tmp_path)


def only(report: Report, code: str, severity: str = "error") -> Finding:
    assert [(finding.code, finding.severity) for finding in report.findings] == [(code, severity)], str(report)
    return report.findings[0]


@pytest.mark.parametrize("changes", [{}, {"no_grad": False}, {"workers": 1}, {"worse": False}, {"epochs": 1}, {"averaged": True}])
def test_nothing_is_said_of_a_training_that_is_right(loop: Loop, changes: dict[str, object]) -> None:
    for name, value in changes.items():
        setattr(loop, name, value)
    report = loop.report()
    assert not report.findings and not report.not_run, str(report)


def test_it_is_trained_once_for_both(loop: Loop, tmp_path: Path) -> None:
    fit, calls = loop.fit, tmp_path / "calls"  # on disk: what a loop holds is put back behind a visit

    def counted() -> list[dict[str, float]]:
        with calls.open("a") as file:
            file.write("x")
        return fit()

    loop.fit = counted  # type: ignore[method-assign]
    assert loop.report().passed == ("T04", "T05") and calls.read_text() == "x"


# T04

def test_choosing_by_test_is_an_error(loop: Loop) -> None:
    loop.val = "test"
    finding = only(loop.report(), "T04")
    assert finding.culprit.what == "test" and "in place of val" in finding.message
    assert "test_doctor_training.py" in str(finding.culprit.where) and "loaders[self.val]" in finding.evidence[3]


def test_test_that_is_read_after_each_epoch_is_an_error(loop: Loop) -> None:
    def batches(loader: DataLoader[tuple[Tensor, int]]) -> object:
        evaluate(network(), DataLoader(loop.data.splits["test"].items, batch_size=8))  # type: ignore[arg-type]
        return loader

    loop.batches = batches
    assert "before the training has ended" in only(loop.report(), "T04").message


def test_a_validation_on_train_is_an_error(loop: Loop) -> None:
    loop.val = "train"
    assert "measured on train" in loop.report().errors[0].message


def test_training_on_val_is_an_error(loop: Loop) -> None:
    loop.train = lambda sets: ConcatDataset([sets["train"], sets["val"]])
    assert "trained on pictures of val" in only(loop.report(), "T04").message


def test_a_part_of_train_that_is_never_read_is_an_error(loop: Loop) -> None:
    loop.train = lambda sets: Subset(sets["train"], range(0, 48, 2))
    assert "24 pictures of train are never read" in only(loop.report(), "T04").message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_ends_after_its_first_batch_is_an_error(loop: Loop, workers: int) -> None:
    loop.workers = workers
    loop.batches = lambda loader: [next(iter(loader))]
    if workers:  # one batch is trained on, three are read ahead
        loop.train = lambda sets: Subset(sets["train"], range(16))
    report = loop.report()
    assert report.errors and report.errors[0].code == "T04", str(report)


def test_one_batch_in_every_step_is_an_error(loop: Loop) -> None:
    def batches(loader: DataLoader[tuple[Tensor, int]]) -> object:
        return [next(iter(loader))] * 6

    loop.batches = batches
    assert any("one and the same batch" in finding.message for finding in loop.report().errors)


# T05

def test_the_last_epoch_saved_as_best_is_an_error(loop: Loop) -> None:
    loop.save_when = lambda *_: True
    finding = only(loop.report(), "T05")
    assert "the last epoch, and epoch 1 was better" in finding.message and finding.culprit.what == "val_loss"


def test_weights_that_go_on_changing_behind_the_best_are_an_error(loop: Loop) -> None:
    loop.keep = lambda net: net.state_dict()
    assert "the last epoch" in only(loop.report(), "T05").message


def test_a_file_without_buffers_is_an_error(loop: Loop) -> None:
    loop.keep, loop.strict = lambda net: {name: value.clone() for name, value in net.named_parameters()}, False
    finding = only(loop.report(), "T05")
    assert "buffers" in finding.message and "1.running_mean" in finding.culprit.what


def test_a_file_with_half_of_the_network_is_an_error(loop: Loop) -> None:
    loop.keep, loop.strict = lambda net: {name: value.clone() for name, value in net.state_dict().items() if name[0] != "4"}, False
    assert "4.weight" in only(loop.report(), "T05").culprit.what


def test_a_file_of_another_network_is_an_error(loop: Loop) -> None:
    loop.keep = lambda net: {name: torch.full_like(value, 3) for name, value in net.state_dict().items()}
    assert "answers worse" in only(loop.report(), "T05").message


def test_a_file_that_cannot_be_loaded_is_an_error(loop: Loop) -> None:
    loop.keep = lambda _: {"weights": torch.zeros(1)}
    assert "cannot be loaded" in only(loop.report(), "T05").message


def test_a_training_that_fails_says_nothing_of_its_data(loop: Loop) -> None:
    loop.batches = lambda _: 1 / 0
    report = loop.report()
    assert not report.findings and "ZeroDivisionError" in report.not_run["T04"]
