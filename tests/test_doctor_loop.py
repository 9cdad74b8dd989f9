"""L01 to L04, L09, L11: what a training step does is heard from torch itself, and each thing that is missing has its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from catdog.doctor import Finding, Intent, Report
from catdog.doctor.loop import EXAMINATIONS
from catdog.doctor.patient import Batch, Loss, Patient
from catdog.doctor.snapshot import digest
from catdog.doctor.visit import visit

pytestmark = pytest.mark.usefixtures("one_thread")

Step = Callable[[nn.Module, Batch, Loss, Optimizer], object]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.Linear(288, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def batch() -> Batch:
    target = torch.arange(12) % 2
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + target[:, None, None, None], target


def patient_of(
    step: Step | None = None, *, model: nn.Module | None = None, optimizer: Optimizer | None = None, **intent: Any,
) -> Patient:
    torch.manual_seed(0)
    model = model or Network()
    return Patient(
        model, batch(), nn.CrossEntropyLoss(), optimizer or SGD(model.parameters(), lr=0.01), step=step, intent=Intent(**intent),
    )


def examined(*arguments: Any, **fields: Any) -> Report:
    return visit(patient_of(*arguments, **fields), EXAMINATIONS, budget=600)


def only(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def line_of(finding: Finding) -> str:
    file, number = (finding.culprit.where or ":0").split(":")
    assert file == "test_doctor_loop.py", finding
    return Path(__file__).read_text().splitlines()[int(number) - 1].strip()


def backward(model: nn.Module, batch: Batch, loss: Loss) -> None:
    loss(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]


# Steps with something wrong, each with its code and what stands in the line that is named


def without_backward(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    value = loss(model(batch[0]), batch[1])
    value.backward  # noqa: B018
    optimizer.step()


def without_step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    backward(model, batch, loss)
    optimizer.step  # noqa: B018


def without_zero(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    backward(model, batch, loss)
    optimizer.step()


def with_a_bare_zero(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad  # noqa: B018
    backward(model, batch, loss)
    optimizer.step()


def zeroed_too_late(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    backward(model, batch, loss)
    optimizer.zero_grad()
    optimizer.step()


def clipped_too_late(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    backward(model, batch, loss)
    optimizer.step()
    clip_grad_norm_(model.parameters(), 1.0)


def cut_off(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    value = torch.tensor(loss(model(batch[0]), batch[1]).item(), requires_grad=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def undone(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer.zero_grad()
    backward(model, batch, loss)
    optimizer.step()
    model.load_state_dict(before)


def not_added_up(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    for images, target in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
        loss(model(images), target).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@pytest.mark.parametrize(("step", "code", "line"), [
    (without_backward, "L02", "value.backward  # noqa: B018"), (without_step, "L02", "optimizer.step  # noqa: B018"),
    (without_zero, "L04", "optimizer.step()"), (with_a_bare_zero, "L04", "optimizer.zero_grad  # noqa: B018"),
    (zeroed_too_late, "L03", "optimizer.zero_grad()"), (clipped_too_late, "L03", "clip_grad_norm_(model.parameters(), 1.0)"),
    (cut_off, "L02", "value.backward()  # type: ignore[no-untyped-call]"),
    (undone, "L02", "optimizer.step()"), (not_added_up, "L09", "loss(model(images), target).backward()  # type: ignore[no-untyped-call]"),
])
def test_what_is_wrong_with_a_step_is_one_error_with_its_line(step: Step, code: str, line: str) -> None:
    finding = only(examined(step))
    assert (finding.severity, finding.code, line_of(finding)) == ("error", code, line)


def counting(every: int, *, share: float) -> Step:
    """Accumulates as its author meant, by a counter of its own."""
    calls = 0

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        nonlocal calls
        calls += 1
        (share * loss(model(batch[0]), batch[1])).backward()  # type: ignore[no-untyped-call]
        if calls % every == 0:
            optimizer.step()
            optimizer.zero_grad()

    return step


@pytest.mark.parametrize("declared", [4, 1])
def test_accumulation_without_its_division(declared: int) -> None:
    finding = only(examined(counting(4, share=1.0), accumulate=declared))
    assert (finding.code, finding.severity) == ("L09", "error")
    assert "4 times that of the batch" in finding.message
    assert examined(counting(4, share=0.25), accumulate=declared).findings == ()


def test_micro_batches_of_which_only_the_last_counts() -> None:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        for images, target in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
            optimizer.zero_grad()
            (loss(model(images), target) / 4).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    finding = only(examined(step))
    assert (finding.code, finding.severity, line_of(finding)) == ("L09", "error", "optimizer.zero_grad()")


def test_a_copy_is_trained() -> None:
    model = Network()
    copy = Network()

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        backward(copy, batch, loss)
        optimizer.step()

    report = examined(step, model=model, optimizer=SGD(copy.parameters(), lr=0.01))
    assert "trains another network" in report.errors[0].message


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_step_that_fails_at_its_second_call_is_one_error_also_where_it_leaves(kind: type[BaseException]) -> None:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        backward(model, batch, loss)
        optimizer.step()
        if model.get_buffer("calls").add_(1) == 2:
            raise kind("the loss is not finite")

    model = Network()
    model.register_buffer("calls", torch.zeros(()))
    finding = only(examined(step, model=model))
    assert (finding.code, finding.severity) == ("L02", "error") and "cannot be made" in finding.message
    assert line_of(finding) == 'raise kind("the loss is not finite")'


def test_a_step_in_evaluation_mode_is_a_warning() -> None:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        model.eval()
        optimizer.zero_grad()
        backward(model, batch, loss)
        optimizer.step()

    finding = only(examined(step))
    assert (finding.code, finding.severity, line_of(finding)) == ("L03", "warning", "model.eval()")


def scaled(*, unscales: bool, steps: bool) -> Step:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        scaler.scale(loss(model(batch[0]), batch[1])).backward()  # type: ignore[no-untyped-call]
        if unscales:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        if steps:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    return step


def test_a_scaler_used_by_halves() -> None:
    assert "clipped while they are 65536 times too large" in only(examined(scaled(unscales=False, steps=True))).message
    assert "made from gradients that are 65536 times too large" in only(examined(scaled(unscales=False, steps=False))).message
    assert examined(scaled(unscales=True, steps=True)).findings == ()


def scheduled(*, first: bool) -> Callable[[Optimizer], tuple[Step, Any]]:
    def made(optimizer: Optimizer) -> tuple[Step, Any]:
        scheduler = CosineAnnealingLR(optimizer, 100)

        def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
            optimizer.zero_grad()
            backward(model, batch, loss)
            if first:
                scheduler.step()
            optimizer.step()
            if not first:
                scheduler.step()

        return step, scheduler

    return made


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("first", [True, False])
def test_a_scheduler_before_the_update_and_whatever_only_the_step_knows_is_put_back(first: bool) -> None:
    model = Network()
    optimizer = SGD(model.parameters(), lr=0.01)
    step, scheduler = scheduled(first=first)(optimizer)
    patient = patient_of(step, model=model, optimizer=optimizer)
    before = digest(patient)
    codes = [finding.code for finding in visit(patient, EXAMINATIONS, budget=600).findings]
    assert codes == (["L03"] if first else [])
    assert digest(patient) == before
    assert scheduler.last_epoch == 0


def test_coverage() -> None:
    model = Network()
    report = examined(model=model, optimizer=SGD(model.head.parameters(), lr=0.01), trainable=("*",))
    assert (only(report).code, only(report).severity, only(report).culprit.what) == ("L01", "error", "body")
    report = examined(model=model, optimizer=SGD(model.head.parameters(), lr=0.01))  # a head is trained, and nobody said more
    assert (only(report).code, only(report).severity) == ("L01", "warning")


def test_a_module_replaced_behind_the_optimizers_back() -> None:
    model = Network()
    optimizer = Adam(model.parameters(), lr=0.001)
    model.head = nn.Linear(288, 2)
    finding = only(examined(model=model, optimizer=optimizer))
    assert (finding.code, finding.culprit.what) == ("L01", "head")
    assert "a former head" in finding.message


def test_everything_but_the_normalisation_frozen_though_all_is_declared_trainable() -> None:
    model = Network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("body.1."))
    finding = only(examined(model=model, trainable=("*",)))
    assert (finding.code, finding.culprit.what) == ("L01", "body.0, head")


def test_a_learning_rate_of_nothing_and_a_warm_up_from_it() -> None:
    model = Network()
    assert "learning rate is 0" in only(examined(model=model, optimizer=SGD(model.parameters(), lr=0.0))).message
    optimizer = SGD(model.parameters(), lr=0.1)
    LambdaLR(optimizer, lambda step: step / 10)
    assert examined(model=model, optimizer=optimizer).findings == ()


def training_mode(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    model.train()
    optimizer.zero_grad()
    backward(model, batch, loss)
    optimizer.step()


@pytest.mark.parametrize(("strict", "severity"), [(True, "error"), (False, "warning")])
def test_batch_statistics_of_a_frozen_part(strict: bool, severity: str) -> None:
    model = Network()
    model.body.requires_grad_(False)
    report = examined(training_mode, model=model, trainable=("head.*",), freeze_strict=strict)
    assert (only(report).code, only(report).severity, only(report).culprit.what) == ("L11", severity, "body.1")
    assert line_of(only(report)) == "model.train()"
    model.body.eval()
    assert examined(model=model, trainable=("head.*",), freeze_strict=strict).findings == ()


def test_a_frozen_part_that_the_optimizer_moves() -> None:
    model = Network()
    model.body[1] = nn.Identity()
    finding = only(examined(model=model, trainable=("head.*",)))
    assert (finding.code, finding.severity, finding.culprit.what) == ("L11", "error", "body")


# Loops that look wrong and are not


def closed(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    optimizer.step(closure)


def asked(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss(model(batch[0]), batch[1]), parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()


def by_hand(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(model(batch[0]), batch[1]), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(0.01 * gradient)


def zeroed_behind(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    backward(model, batch, loss)
    clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    model.zero_grad()


def sharpness_aware(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
    backward(model, batch, loss)
    moves = [(parameter, 0.05 * parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    with torch.no_grad():
        for parameter, move in moves:
            parameter.add_(move)
    optimizer.zero_grad()
    backward(model, batch, loss)
    with torch.no_grad():
        for parameter, move in moves:
            parameter.sub_(move)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("step", [asked, by_hand, zeroed_behind, sharpness_aware, training_mode, None])
def test_a_loop_that_is_made_otherwise_is_not_accused(step: Step | None) -> None:
    assert examined(step).findings == ()


def test_a_closure_is_not_accused() -> None:
    model = Network()
    assert examined(closed, model=model, optimizer=LBFGS(model.parameters(), lr=0.1, max_iter=3)).findings == ()


def test_a_scaler_that_leaves_out_its_first_updates() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1000, backoff_factor=2.0**-20)

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        scaler.scale(1000 * loss(model(batch[0]), batch[1])).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()

    assert examined(step).findings == ()
    assert scaler.get_scale() == 2.0**126


def test_a_fused_optimizer_that_divides_by_the_scale_itself() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        for images, target in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
            scaler.scale(loss(model(images), target) / 2).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()

    model = Network()
    assert examined(step, model=model, optimizer=SGD(model.parameters(), lr=0.01, fused=True)).findings == ()


def test_several_optimizers_of_which_one_is_handed_over() -> None:
    model = Network()
    other, own = AdamW(model.body.parameters(), lr=0.001), SGD(model.head.parameters(), lr=0.01)

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        model.zero_grad()
        backward(model, batch, loss)
        other.step()
        own.step()

    assert examined(step, model=model, optimizer=own, trainable=("*",)).findings == ()
    assert not other.state


def test_a_teacher_that_follows_its_pupil_is_frozen_and_moves() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pupil, self.teacher = Network(), Network().requires_grad_(False).eval()

        def forward(self, images: Tensor) -> Tensor:
            return self.pupil(images)

    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        backward(model, batch, loss)
        optimizer.step()
        pair = model
        assert isinstance(pair, Pair)
        with torch.no_grad():
            for mean, value in zip(pair.teacher.parameters(), pair.pupil.parameters(), strict=True):
                mean.lerp_(value, 0.1)

    model = Pair()
    optimizer = SGD(model.pupil.parameters(), lr=0.01)
    assert examined(step, model=model, optimizer=optimizer, trainable=("pupil.*",)).findings == ()
