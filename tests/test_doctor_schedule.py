"""L07 and L08: a learning rate that cannot work, a schedule that counts other steps than the loop, and the ladder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR, StepLR

from catdog.doctor import Finding, Intent, Report
from catdog.doctor.loop import ladder as ladders
from catdog.doctor.loop.schedule import EXAMINATIONS
from catdog.doctor.patient import Loss, Patient
from catdog.doctor.visit import visit

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2),
    )


def patient_of(
    made: Callable[[nn.Module], Optimizer], *, loss: Loss | None = None, model: nn.Module | None = None, **fields: Any,
) -> Patient:
    target = torch.arange(8) % 2
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + target[:, None, None, None]
    model = model or network()
    return Patient(model, (images, target), loss or nn.CrossEntropyLoss(), made(model), **fields)


def examined(patient: Patient) -> Report:
    return visit(patient, EXAMINATIONS, budget=600)


@pytest.mark.parametrize("last", [nn.Identity(), nn.Sigmoid()])
@pytest.mark.parametrize("made", [
    lambda model: SGD(model.parameters(), lr=100), lambda model: Adam(model.parameters(), lr=100),
    lambda model: Adam(model.parameters(), lr=1.0),
])
def test_a_learning_rate_far_too_high_is_seen_through_a_last_sigmoid(made: Callable[[nn.Module], Optimizer], last: nn.Module) -> None:
    (finding,) = examined(patient_of(made, model=nn.Sequential(network(), last))).findings
    assert (finding.code, finding.severity) == ("L08", "error")
    assert finding.message.endswith("is far too high")


def test_the_line_that_makes_the_optimizer_is_named() -> None:
    def too_high(model: nn.Module) -> Optimizer:
        return AdamW(model.parameters(), lr=50)

    (finding,) = examined(patient_of(too_high)).findings
    _, number = (finding.culprit.where or ":0").split(":")
    assert "AdamW(model.parameters(), lr=50)" in Path(__file__).read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize("made", [
    lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9), lambda model: Adam(model.parameters(), lr=1e-2),
    lambda model: AdamW(model.parameters(), lr=1e-3, weight_decay=0.1), lambda model: SGD(model.parameters(), lr=1e-4),
    lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-2), lambda model: torch.optim.Adadelta(model.parameters()),
])
def test_the_usual_learning_rates_are_not_accused(made: Callable[[nn.Module], Optimizer]) -> None:
    assert examined(patient_of(made)).findings == ()


def test_an_optimizer_that_looks_for_its_own_steps_is_not_judged() -> None:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss, optimizer: Optimizer) -> None:
        def closure() -> float:
            optimizer.zero_grad()
            value = loss(model(batch[0]), batch[1])
            value.backward()  # type: ignore[no-untyped-call]
            return value.item()

        optimizer.step(closure)

    assert examined(patient_of(lambda model: torch.optim.LBFGS(model.parameters()), step=step)).findings == ()


def scheduled(scheduler_of: Callable[[Optimizer], LRScheduler], *, epochs: int = 10, batches: int = 10, by_batch: bool) -> Patient:
    """A training of so many epochs, told as the loop makes it."""

    def schedule() -> list[float]:
        optimizer = SGD(network().parameters(), lr=0.05)
        scheduler, rates = scheduler_of(optimizer), []
        for _ in range(epochs):
            for _ in range(batches):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                if by_batch:
                    scheduler.step()
            if not by_batch:
                scheduler.step()
        return rates

    patient = patient_of(lambda model: SGD(model.parameters(), lr=0.05), schedule=schedule)
    assert patient.optimizer is not None
    patient.scheduler = scheduler_of(patient.optimizer)
    return patient


def only(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


@pytest.mark.parametrize(("scheduler_of", "severity", "said"), [
    (lambda optimizer: CosineAnnealingLR(optimizer, T_max=10), "error", "ends at update 10 of 100 and rises again"),
    (lambda optimizer: StepLR(optimizer, step_size=3), "error", "practically 0 in"),
    (lambda optimizer: StepLR(optimizer, step_size=1000), "warning", "stays what it is"),
])
def test_a_schedule_in_epochs_that_is_stepped_per_batch(
    scheduler_of: Callable[[Optimizer], LRScheduler], severity: str, said: str,
) -> None:
    finding = only(examined(scheduled(scheduler_of, by_batch=True)))
    assert (finding.code, finding.severity) == ("L08", severity)
    assert said in finding.message
    assert finding.culprit.where is not None and finding.culprit.where.startswith("test_doctor_schedule.py")


@pytest.mark.parametrize(("scheduler_of", "by_batch"), [
    (lambda optimizer: CosineAnnealingLR(optimizer, T_max=10), False), (lambda optimizer: CosineAnnealingLR(optimizer, T_max=100), True),
    (lambda optimizer: StepLR(optimizer, step_size=3), False), (lambda optimizer: CosineAnnealingWarmRestarts(optimizer, T_0=20), True),
    (lambda optimizer: OneCycleLR(optimizer, max_lr=0.05, total_steps=101), True),
    (lambda optimizer: ConstantLR(optimizer, factor=1.0), True),
])
def test_a_schedule_that_ends_with_the_training_is_not_accused(scheduler_of: Callable[[Optimizer], LRScheduler], by_batch: bool) -> None:
    assert examined(scheduled(scheduler_of, by_batch=by_batch)).findings == ()


# The ladder


def climbed(patient: Patient, *before: Finding) -> Report:
    patient.findings = before
    return visit(patient, ladders.EXAMINATIONS, budget=600)


def test_what_learns_climbs() -> None:
    assert climbed(patient_of(lambda model: Adam(model.parameters(), lr=1e-3))).passed == ("L07",)
    assert climbed(patient_of(lambda model: SGD(model.parameters(), lr=1e-2))).passed == ("L07",)


def test_a_loop_that_cannot_is_told_from_a_network_that_cannot() -> None:
    finding = only(climbed(patient_of(lambda model: SGD(model.parameters(), lr=1e-7))))
    assert (finding.severity, finding.culprit.what) == ("warning", "optimizer and loop")

    finding = only(climbed(patient_of(
        lambda model: Adam(model.parameters(), lr=1e-3), loss=lambda out, target: -nn.functional.cross_entropy(out, target).clamp(max=5),
    )))
    assert (finding.severity, finding.culprit.what) == ("error", "network and loss")
    assert "no other examination has found anything" in finding.remedy


def test_a_network_that_is_off_at_its_first_weights_alone_is_no_error() -> None:
    model = nn.Sequential(network(), nn.ReLU())
    list(model.parameters())[-1].data.fill_(-9.0)
    finding = only(climbed(patient_of(lambda model: Adam(model.parameters(), lr=1e-3), model=model)))
    assert (finding.severity, finding.culprit.what) == ("warning", "its first weights")


@pytest.mark.parametrize("seed", [3, 4])
def test_a_network_that_moves_from_other_weights_is_not_accused(seed: int) -> None:
    """Its last ReLU is off for the first image, and others train it."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 1), nn.ReLU(),
    )
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    target = 20 + 10 * torch.rand(8, 1, generator=torch.Generator().manual_seed(2))
    finding = only(climbed(Patient(model, (images, target), nn.MSELoss(), Adam(model.parameters(), lr=1e-3))))
    assert finding.severity == "warning" and "no time" not in str(finding)


def test_a_network_for_which_there_is_no_time_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladders, "SECONDS", 0.0)
    report = climbed(patient_of(lambda model: SGD(model.parameters(), lr=1e-7)))
    assert report.findings == () and report.not_run["L07"].startswith("no time for")
    monkeypatch.setattr(ladders, "STEPS", 1)  # what is over is judged
    assert climbed(patient_of(lambda model: SGD(model.parameters(), lr=1e-7))).findings


def test_what_cannot_learn_is_warned_of_where_time_runs_out_behind_the_third_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(out: Tensor, target: Tensor) -> Tensor:
        return -nn.functional.cross_entropy(out, target).clamp(max=5)

    def climb(*given: Any, until: float, weights: int | None = None, **more: Any) -> ladders._Climb:
        return once(*given, until=until if weights is None else 0.0, weights=weights, **more)

    once = ladders._climbed
    monkeypatch.setattr(ladders, "_climbed", climb)
    finding = only(climbed(patient_of(lambda model: Adam(model.parameters(), lr=1e-3), loss=flipped)))
    assert (finding.severity, finding.culprit.what) == ("warning", "network and loss")
    assert len(finding.evidence) == 4 and finding.evidence[-1] == "there was no time to try other weights"


def test_a_head_on_a_frozen_body_need_only_fit_one_sample() -> None:
    model = network()
    for module in list(model.children())[:-1]:
        module.requires_grad_(False)
    patient = patient_of(lambda model: Adam([one for one in model.parameters() if one.requires_grad], lr=1e-3), model=model)
    patient.intent = Intent(trainable=("7.*",))
    assert climbed(patient).passed == ("L07",)


def test_a_step_whose_own_schedule_ends_is_not_judged_and_the_schedule_is_put_back() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=1e-5)
    scheduler = OneCycleLR(optimizer, max_lr=1e-5, total_steps=20)

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        loss(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()

    report = climbed(patient_of(lambda _: optimizer, model=model, step=step))
    assert report.findings == ()
    assert report.not_run["L07"].startswith("the training step fails after some calls: ValueError")
    assert scheduler.last_epoch == 0
