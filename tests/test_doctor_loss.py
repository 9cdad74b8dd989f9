"""L05 and L06: which loss a loop trains with is told from the gradient, whatever stands between the network and it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from catdog.doctor import Finding, Intent, Report
from catdog.doctor import loss as organ
from catdog.doctor.loop import descent
from catdog.doctor.loss.certificate import Certificate
from catdog.doctor.patient import Batch, Loss, Patient
from catdog.doctor.visit import visit
from tests.examples import five_bugs, no_bugs

pytestmark = pytest.mark.usefixtures("one_thread")

Step = Callable[[nn.Module, Batch, Loss, Optimizer], object]

EXAMINATIONS = (*organ.EXAMINATIONS, *descent.EXAMINATIONS)


class Network(nn.Module):
    """images (N, 3, 8, 8) -> what `last` makes of logits (N, C)"""

    def __init__(self, last: Callable[[Tensor], Tensor] | None = None, *, labels: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.Linear(288, labels)
        self.last = last

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.body(images))
        return self.last(logits) if self.last is not None else logits


def batch(labels: int = 2) -> Batch:
    target = torch.arange(12) % labels
    return torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + target[:, None, None, None], target


def examined(
    step: Step | None = None, *, model: nn.Module | None = None, criterion: Loss | None = None, given: Batch | None = None,
    optimizer: type[Optimizer] | None = SGD, **fields: Any,
) -> Report:
    torch.manual_seed(0)
    model = model or Network()
    made = optimizer(model.parameters(), lr=0.01) if optimizer else None  # type: ignore[call-arg]
    patient = Patient(model, given or batch(), criterion or nn.CrossEntropyLoss(), made, step=step, intent=Intent(**fields))
    return visit(patient, EXAMINATIONS, budget=600)


def only(report: Report, code: str) -> Finding:
    (finding,) = [finding for finding in report.errors if finding.code == code]
    return finding


def line_of(finding: Finding) -> str:
    file, number = (finding.culprit.where or ":0").split(":")
    assert file == "test_doctor_loss.py", finding
    return Path(__file__).read_text().splitlines()[int(number) - 1].strip()


def step_with(loss_of: Callable[[nn.Module, Tensor, Tensor, Loss], Tensor]) -> Step:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        loss_of(model, *batch, loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


# What is wrong


@pytest.mark.parametrize("last", [torch.sigmoid, lambda logits: logits.softmax(1), nn.Sigmoid(), nn.Softmax(dim=1)])
def test_an_activation_that_the_network_ends_in_stands_before_a_loss_that_has_its_own(last: Callable[[Tensor], Tensor]) -> None:
    finding = only(examined(model=Network(last)), "L05")
    assert "stands before cross_entropy" in finding.message
    assert finding.culprit.what in ("sigmoid", "softmax")


def test_an_activation_in_the_loop_is_named_with_its_line() -> None:
    def loss_of(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
        answers = model(images).sigmoid()
        return loss(answers, target)

    assert line_of(only(examined(step_with(loss_of)), "L05")) == "answers = model(images).sigmoid()"


def test_an_activation_by_hand_is_told_from_the_gradient_alone() -> None:
    finding = only(examined(step_with(lambda model, images, target, loss: loss(1 / (1 + (-model(images)).exp()), target))), "L05")
    assert finding.message.startswith("The loss is cross_entropy(sigmoid(outputs), target)")


def test_two_sigmoids_of_one_output() -> None:
    model = Network(lambda logits: torch.sigmoid(logits[:, 0]), labels=1)
    images, target = batch()
    assert "bce_with_logits" in only(examined(model=model, criterion=nn.BCEWithLogitsLoss(), given=(images, target.float())), "L05").message


@pytest.mark.parametrize("last", [lambda logits: logits.softmax(1), None])
def test_nll_of_what_is_no_logarithm(last: Callable[[Tensor], Tensor] | None) -> None:
    assert "nll_loss gets" in only(examined(model=Network(last), criterion=nn.NLLLoss()), "L05").message


@pytest.mark.parametrize("against", [lambda out: out, lambda out: out.softmax(1), lambda out: out.argmax(1)])
def test_a_loss_that_ignores_the_target(against: Callable[[Tensor], Tensor]) -> None:
    def loss_of(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
        out = model(images)
        return loss(out, against(out))

    finding = only(examined(step_with(loss_of)), "L05")
    assert finding.message.startswith("The loss does not depend on the target")


def test_a_minus_before_the_loss_is_told_twice() -> None:
    report = examined(step_with(lambda model, images, target, loss: (-loss(model(images), target)).clamp(min=-10)))
    assert [finding.code for finding in report.errors] == ["L05", "L06"]
    assert line_of(report.errors[0]) == "loss_of(model, *batch, loss).backward()  # type: ignore[no-untyped-call]"


def test_gradients_that_are_turned_round_behind_the_backward() -> None:
    def step(model: nn.Module, batch: Batch, loss: Loss, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        loss(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.neg_()
        optimizer.step()

    assert [finding.code for finding in examined(step).errors] == ["L06"]


def test_an_optimizer_that_climbs() -> None:
    model = Network()
    patient = Patient(model, batch(), nn.CrossEntropyLoss(), SGD(model.parameters(), lr=0.01, maximize=True))
    assert {finding.code for finding in visit(patient, EXAMINATIONS, budget=600).errors} == {"L05", "L06"}


@pytest.mark.parametrize(("declared", "severity"), [("cross_entropy", "error"), (None, "warning")])
def test_a_sum_over_the_batch_is_wrong_where_a_mean_is_declared(declared: str | None, severity: str) -> None:
    report = examined(criterion=nn.CrossEntropyLoss(reduction="sum"), loss=declared)
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("L05", severity)
    assert "8 times the mean over its 8 images" in finding.message


def test_a_label_without_gradient() -> None:
    finding = only(examined(criterion=nn.CrossEntropyLoss(ignore_index=1)), "L05")
    assert "ignores label 1" in finding.message
    assert examined(criterion=nn.CrossEntropyLoss(ignore_index=1), ignore_index=1).findings == ()


def test_declared_weights_that_the_loss_does_not_have() -> None:
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]))
    assert "does not weigh the labels" in only(examined(criterion=weighted, label_weights=(5.0, 1.0)), "L05").message
    assert examined(criterion=weighted, label_weights=(2.0, 10.0)).findings == ()


def test_a_softmax_over_the_batch() -> None:
    assert "softmax stands before" in only(examined(model=Network(lambda logits: logits.softmax(0))), "L05").message


@pytest.mark.parametrize(("other", "said"), [
    (lambda target: 1 - target, "0 as 1, 1 as 0"),
    (lambda target: target[torch.randperm(len(target))], "those of other images"),
])
def test_other_targets_than_the_batch_has(other: Callable[[Tensor], Tensor], said: str) -> None:
    finding = only(examined(step_with(lambda model, images, target, loss: loss(model(images), other(target)))), "L05")
    assert said in finding.message


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_step_that_fails_or_leaves_where_answers_are_planted_is_not_judged(kind: type[BaseException]) -> None:
    calls = iter(range(2))  # those of the trial

    def loss_of(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
        if next(calls, None) is None:
            raise kind("no more")
        return loss(model(images), target)

    report = examined(step_with(loss_of))
    assert report.findings == () and kind.__name__ in report.not_run["L05"], report


def test_a_loss_that_is_not_the_networks() -> None:
    def loss_of(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
        return torch.tensor(loss(model(images), target).item(), requires_grad=True)

    assert "does not depend on what the network answers" in only(examined(step_with(loss_of)), "L05").message


# What is not


def mixup(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    share, order = 0.7, torch.randperm(len(images))
    out = model(share * images + (1 - share) * images[order])
    return share * loss(out, target) + (1 - share) * loss(out, target[order])


def focal(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    of_label = model(images).log_softmax(1).gather(1, target[:, None])
    return -((1 - of_label.exp()) ** 2 * of_label).mean()


def absolute(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    return (model(images).softmax(1) - functional.one_hot(target, 2)).abs().sum(1).mean()


def shuffled(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    order = torch.randperm(len(images))
    return loss(model(images[order]), target[order])


def twice(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    one, other = model(images), model(images.flip(3))
    return loss(one, target) + functional.mse_loss(other, one)


def attacked(model: nn.Module, images: Tensor, target: Tensor, loss: Loss) -> Tensor:
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(images), target), images)
    return loss(model((images + 0.03 * gradient.sign()).detach()), target)


@pytest.mark.parametrize("loss_of", [mixup, focal, absolute, shuffled, twice, attacked])
def test_a_loop_with_a_loss_of_its_own_is_not_accused(loss_of: Callable[..., Tensor]) -> None:
    assert examined(step_with(loss_of)).findings == ()


@pytest.mark.parametrize(("loss", "last"), [
    (nn.CrossEntropyLoss(label_smoothing=0.1), None), (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])), None),
    (nn.NLLLoss(), nn.LogSoftmax(dim=1)), (nn.CrossEntropyLoss(), nn.LogSoftmax(dim=1)),
    (lambda out, target: functional.binary_cross_entropy(out[:, 1], target.float()), nn.Sigmoid()),
    (lambda out, target: functional.mse_loss(out, functional.one_hot(target, 2).float()), nn.Softmax(dim=1)),
])
def test_a_loss_that_fits_what_the_network_ends_in_is_not_accused(loss: Loss, last: nn.Module | None) -> None:
    assert examined(model=Network(last), criterion=loss, optimizer=Adam).findings == ()


def test_targets_of_several_labels_and_none_of_an_optimizer() -> None:
    images, target = batch()
    assert examined(criterion=nn.BCEWithLogitsLoss(), given=(images, functional.one_hot(target).float())).findings == ()
    assert examined(optimizer=None).findings == ()


class Straight(torch.autograd.Function):
    """A step whose gradient is let through."""

    @staticmethod
    def forward(_ctx: Any, inputs: Tensor) -> Tensor:
        return (inputs > 0).float()

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def test_a_straight_through_estimator_is_not_accused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), Apply(Straight), nn.Linear(64, 2))
    assert examined(model=model).errors == []


class Apply(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function.apply(inputs)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.0, 0.5]])
def test_a_certificate_tells_smoothing_weights_and_scale(smoothing: float, weights: Sequence[float]) -> None:
    logits, target = (2 * torch.randn(24, 3)).requires_grad_(), torch.arange(24) % 3
    each = functional.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none") * torch.tensor(weights)[target]
    (gradients,) = torch.autograd.grad(4 * each.mean(), logits)
    certificate = Certificate.of(gradients, logits, target, images=24)
    assert certificate is not None
    assert (certificate.loss, certificate.activation) == ("cross_entropy", "")
    if smoothing == 0:
        assert [certificate.scales[label] / 4 for label in range(3)] == pytest.approx(weights, rel=1e-4)
    elif weights == [1.0, 1.0, 1.0]:
        assert certificate.smoothing == pytest.approx(smoothing, rel=1e-4)
        assert certificate.scale == pytest.approx(4, rel=1e-4)


# The workshop's loop, as a user would have it


def test_the_five_bugs_of_the_workshop_are_named_at_once_each_with_its_line() -> None:
    report = five_bugs.main(budget=600)
    found = {(finding.culprit.where or "").partition(":")[2]: finding for finding in report.errors}
    lines = Path(five_bugs.__file__).read_text().splitlines()
    named = {lines[int(number) - 1].strip(): finding.code for number, finding in found.items()}
    assert named == {
        "output = torch.sigmoid(model(images))": "L05", "loss = loss_fnc(output, output)": "L05", "loss.backward": "L02",
        "optimizer.step": "L02", "optimizer = torch.optim.SGD(model.parameters(), lr=100)": "L08",
    }
    (ladder,) = report.warnings
    assert "L05: sigmoid stands before cross_entropy" in ladder.remedy


def test_without_them_there_is_nothing_to_say() -> None:
    assert no_bugs.main(budget=600).findings == ()
