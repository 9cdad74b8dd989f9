"""L10 and L12: what an evaluation reports of known answers, and whether it only looks."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from catdog.doctor import Finding, Intent, Report
from catdog.doctor.loop import evaluation as purity
from catdog.doctor.loop.metric import EXAMINATIONS
from catdog.doctor.patient import Batch, Loss, Patient
from catdog.doctor.snapshot import digest
from catdog.doctor.visit import visit

pytestmark = pytest.mark.usefixtures("one_thread")

Figures = Mapping[str, Any]
Evaluate = Callable[[nn.Module, Iterable[Batch], Loss], Figures]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3))


def patient_of(evaluate: Evaluate, *, loss: Loss | None = None, model: nn.Module | None = None, **intent: Any) -> Patient:
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = model or network()
    return Patient(
        model, (images, torch.arange(8) % 3), loss or nn.CrossEntropyLoss(), SGD(model.parameters(), lr=0.01), evaluate=evaluate,
        intent=Intent(**intent),
    )


def examined(evaluate: Evaluate, **fields: Any) -> Report:
    patient = patient_of(evaluate, **fields)
    before = digest(patient)
    report = visit(patient, (*EXAMINATIONS, *purity.EXAMINATIONS), budget=600)
    assert digest(patient) == before
    return report


def line_of(finding: Finding) -> str:
    file, number = (finding.culprit.where or ":0").split(":")
    assert file == "test_doctor_metric.py", finding
    return Path(__file__).read_text().splitlines()[int(number) - 1].strip()


Counted = tuple[float, float, int]
"""Of a batch: mean loss, hits, images."""


def evaluation(figures: Callable[[list[Counted]], Figures], *, modes: bool = True, grad: bool = False) -> Evaluate:
    """One whose bookkeeping is `figures`."""

    def evaluate(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Figures:
        was = model.training
        model.train(was and not modes)
        counted = []
        with torch.set_grad_enabled(grad):
            for images, target in batches:
                out = model(images)
                counted.append((float(loss(out, target).detach()), float((out.argmax(1) == target).sum()), len(target)))
        model.train(was)
        return figures(counted)

    return evaluate


def right(counted: list[Counted]) -> Figures:
    images = sum(number for *_, number in counted)
    return {"loss": sum(mean * number for mean, _, number in counted) / images, "accuracy": sum(hits for _, hits, _ in counted) / images}


def means_by_images(counted: list[Counted]) -> Figures:
    return {**right(counted), "loss": sum(mean for mean, *_ in counted) / sum(number for *_, number in counted)}


def mean_of_means(counted: list[Counted]) -> Figures:
    return {**right(counted), "loss": sum(mean for mean, *_ in counted) / len(counted)}


def mean_of_accuracies(counted: list[Counted]) -> Figures:
    return {**right(counted), "accuracy": sum(hits / number for _, hits, number in counted) / len(counted)}


def last_one(counted: list[Counted]) -> Figures:
    return {**right(counted), "loss": counted[-1][0]}


def hits_by_full_batches(counted: list[Counted]) -> Figures:
    return {**right(counted), "accuracy": sum(hits for _, hits, _ in counted) / (len(counted) * counted[0][2])}


def errors(counted: list[Counted]) -> Figures:
    return {"accuracy": 1 - right(counted)["accuracy"]}


@pytest.mark.parametrize(("figures", "name", "formula"), [
    (means_by_images, "loss", "the sum of the batches' means, divided by the number of images"),
    (mean_of_means, "loss", "the mean of the batches' means"), (last_one, "loss", "that of the last batch alone"),
    (mean_of_accuracies, "accuracy", "the mean of the batches' means"),
    (hits_by_full_batches, "accuracy", "divided by the batches times the size of a full one"),
    (errors, "accuracy", "the share of wrong answers"),
])
def test_a_wrong_formula_is_named(figures: Callable[[list[Counted]], Figures], name: str, formula: str) -> None:
    (finding,) = examined(evaluation(figures)).findings
    assert (finding.code, finding.severity) == ("L10", "error")
    assert f"The evaluation's {name} is" in finding.message and formula in finding.message
    assert line_of(finding) == "out = model(images)"


@pytest.mark.parametrize("loss", [
    nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0])),
])
def test_the_mean_over_the_images_is_right_whatever_the_loss(loss: Loss) -> None:
    assert examined(evaluation(right), loss=loss).findings == ()


def test_percent_and_other_names_and_all_at_once_are_right() -> None:
    def renamed(counted: list[Counted]) -> Figures:
        return {"val_loss": right(counted)["loss"], "val_acc": 100 * right(counted)["accuracy"]}

    assert examined(evaluation(renamed)).findings == ()

    @torch.no_grad()
    def together(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Figures:
        model.eval()
        answers, targets = (torch.cat(parts) for parts in zip(*((model(images), target) for images, target in batches), strict=True))
        return {"loss": loss(answers, targets), "accuracy": (answers.argmax(1) == targets).double().mean()}

    assert examined(together).findings == ()


def test_something_else_under_the_name_of_loss_is_a_warning() -> None:
    (finding,) = examined(evaluation(lambda counted: {"loss": 0.123 + 0 * len(counted)})).findings
    assert (finding.code, finding.severity) == ("L10", "warning")


def test_an_evaluation_that_asks_otherwise_is_not_judged() -> None:
    @torch.no_grad()
    def averaged(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Figures:
        model.eval()
        losses = [loss((model(images) + model(images.flip(3))) / 2, target) for images, target in batches]
        return {"loss": torch.stack(losses).mean()}

    report = examined(averaged)
    assert report.findings == ()
    assert report.not_run["L10"] == "the evaluation asks for 18 answers about 9 images"


def test_training_mode_in_evaluation() -> None:
    (finding,) = examined(evaluation(right, modes=False)).findings
    assert (finding.code, finding.severity, finding.culprit.what) == ("L12", "error", "model.eval()")
    assert line_of(finding) == "out = model(images)"
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))
    assert examined(evaluation(right, modes=False), model=dropping, random_eval=True).findings == ()
    (finding,) = examined(evaluation(right, modes=False), model=nn.Sequential(nn.Flatten(), nn.Linear(192, 3))).findings
    assert (finding.code, finding.severity) == ("L12", "warning")  # it makes no difference


def test_an_evaluation_with_gradients_is_a_warning_and_one_that_trains_an_error() -> None:
    (finding,) = examined(evaluation(right, grad=True)).findings
    assert (finding.code, finding.severity) == ("L12", "warning")

    def trains(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Figures:
        model.eval()
        optimizer = SGD(model.parameters(), lr=0.1)
        for images, target in batches:
            loss(model(images), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return {}

    assert "L12" in [finding.code for finding in examined(trains).errors]


@pytest.mark.parametrize("kind", [KeyError, SystemExit])
def test_an_evaluation_that_fails_or_leaves_is_a_warning(kind: type[BaseException]) -> None:
    def fails(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Figures:
        raise kind("images")

    report = examined(fails)
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("L12", "warning") and "cannot be made" in finding.message
    assert kind.__name__ in report.not_run["L10"]


def test_known_answers_fit_networks_of_one_output() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Sigmoid())

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy(out[:, 0], target.float())

    def counted(figures: Callable[[float, int], float]) -> Evaluate:
        @torch.no_grad()
        def evaluate(model: nn.Module, batches: Iterable[Batch], loss: Loss) -> Figures:
            model.eval()
            pairs = [(float(loss(model(images), target)), len(target)) for images, target in batches]
            return {"loss": figures(sum(mean * number for mean, number in pairs), sum(number for _, number in pairs))}

        return evaluate

    def examine_one(evaluate: Evaluate) -> Report:
        images = torch.randn(8, 3, 8, 8)
        return visit(Patient(model, (images, torch.arange(8) % 2), loss, evaluate=evaluate), EXAMINATIONS, budget=600)

    assert examine_one(counted(lambda total, images: total / images)).passed == ("L10",)
    assert [one.code for one in examine_one(counted(lambda total, images: 3 * total / images)).errors] == ["L10"]
