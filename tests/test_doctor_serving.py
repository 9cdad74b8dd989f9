"""What the doctor says about serving: each way in which it differs from validation is found and named."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from catdog.doctor import serving as organ
from catdog.doctor.findings import Finding, Report
from catdog.doctor.patient import Data, Patient, Serving, Training
from catdog.doctor.visit import visit
from tests.animals import LABELS, MEAN, Host, crop, normalise, to_tensor, write

pytestmark = pytest.mark.usefixtures("one_thread")

Prepare = Callable[[bytes], Tensor]


def read(data: bytes) -> Image.Image:
    """Upright, transparency over white, 16 bits scaled: a careful one."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def careful(data: bytes) -> Tensor:
    return normalise(to_tensor(crop(read(data))))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    host = Host(write(tmp_path_factory.mktemp("animals") / "set", {"train": (4, 4), "val": (6, 6)}))
    host.prepare = careful
    return host.data()


def trained() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * 100, 2),
    )
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, 3, 32, 32) * 1.5 + 0.3)
        net[-1].weight.mul_(8)  # type: ignore[operator]
    return net.eval()


class Service:
    """What answers users, each part of it to be replaced."""

    def __init__(self) -> None:
        self.network = trained()
        self.prepare: Prepare = careful
        self.answer: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(1)
        self.labels: Sequence[str] = LABELS
        self.outputs: Callable[[Tensor], Tensor] = lambda logits: logits

    def logits(self, inputs: Tensor) -> Tensor:
        return self.outputs(self.network(inputs)).detach()

    def probabilities(self, pictures: Sequence[bytes]) -> Tensor:
        return self.answer(self.logits(torch.stack([self.prepare(one) for one in pictures])))

    def examined(self, data: Data, *codes: str) -> Report:
        items = data.splits["train"].items
        batch = torch.stack([items[position][0] for position in (0, 1, -1)]), torch.tensor([0, 0, 1])
        someone = Patient(
            trained(), batch, data=data,
            serving=Serving(self.prepare, self.probabilities, self.labels, self.logits),
        )
        return visit(someone, [one for one in organ.EXAMINATIONS if not codes or one.code in codes], budget=600)


def only(report: Report, code: str, severity: str = "error") -> Finding:
    found = [finding for finding in report.findings if finding.severity == severity]
    assert [finding.code for finding in found] == [code], str(report)
    return found[0]


def test_nothing_is_said_of_a_serving_that_does_as_validation(data: Data) -> None:
    report = Service().examined(data)
    assert not report.findings and report.passed == ("S01", "S02", "S03", "S04"), str(report)


# S01

def unaliased(image: Image.Image) -> Image.Image:
    """As a tensor is resized without antialias."""
    values = to_tensor(image)[None]
    scale = 36 / min(image.size)
    size = (round(image.height * scale), round(image.width * scale))
    resized = nn.functional.interpolate(values, size=size, mode="bilinear", align_corners=False)[0]
    return crop(Image.fromarray((resized.permute(1, 2, 0) * 255).round().byte().numpy()), short=36)


def stored(data: bytes) -> Image.Image:
    """As `read`, lying as it is stored."""
    image = Image.open(io.BytesIO(data))
    image.getexif().clear()
    buffer = io.BytesIO()
    if image.format == "JPEG":
        Image.fromarray(np.asarray(image.convert("RGB"))).save(buffer, "PNG")
        return read(buffer.getvalue())
    return read(data)


def over_black(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if not image.has_transparency_data:
        return read(data)
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA")).convert("RGB")


DEVIATIONS: dict[str, Prepare] = {
    "the values are not normalised": lambda data: to_tensor(crop(read(data))),
    "the values are neither divided by 255 nor normalised": lambda data: 255 * to_tensor(crop(read(data))),
    "the values are normalised twice": lambda data: normalise(careful(data)),
    "the values are normalised by 0.5 and 0.5": lambda data: (to_tensor(crop(read(data))) - 0.5) / 0.5,
    "the values are not divided by the deviation": lambda data: to_tensor(crop(read(data))) - torch.tensor(MEAN)[:, None, None],
    "red and blue are exchanged (BGR)": lambda data: normalise(to_tensor(crop(read(data))).flip(0)),
    "the colours are lost": lambda data: normalise(to_tensor(crop(read(data).convert("L").convert("RGB")))),
    "the picture is mirrored": lambda data: careful(data).flip(-1),
    "rows and columns are exchanged": lambda data: careful(data).transpose(1, 2),
    "the spatial layout is scrambled": lambda data: normalise(to_tensor(crop(read(data))).permute(1, 2, 0).reshape(3, 32, 32)),
    "a picture is resized nearest": lambda data: normalise(to_tensor(crop(read(data), resample=Image.Resampling.NEAREST))),
    "a picture is resized Lanczos": lambda data: normalise(to_tensor(crop(read(data), resample=Image.Resampling.LANCZOS))),
    "a picture is resized bilinear without antialias": lambda data: normalise(to_tensor(unaliased(read(data)))),
    "a picture is cropped to 66% of its area": lambda data: normalise(to_tensor(crop(read(data), short=32))),
    "a picture is stretched to a square": lambda data: normalise(to_tensor(read(data).resize((32, 32), Image.Resampling.BILINEAR))),
    "the EXIF orientation is not applied": lambda data: normalise(to_tensor(crop(stored(data)))),
    "transparency is laid over black": lambda data: normalise(to_tensor(crop(over_black(data)))),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_preparation_that_deviates_is_named(data: Data, name: str) -> None:
    service = Service()
    service.prepare = DEVIATIONS[name]
    finding = only(service.examined(data, "S01"), "S01")
    assert name in finding.message, finding
    assert str(finding.culprit.where).count("test_doctor_serving.py") == 2


def test_it_is_validation_that_is_blamed_where_serving_does_as_declared(data: Data) -> None:
    report = Service().examined(replace(data, prepare=lambda given: normalise(careful(given))), "S01")
    assert only(report, "S01").message == "In validation, otherwise than in serving, the values are normalised twice"


def test_another_size_is_an_error(data: Data) -> None:
    service = Service()
    service.prepare = lambda data: normalise(to_tensor(crop(read(data), side=28)))
    assert "(3, 28, 28)" in only(service.examined(data, "S01"), "S01").message


def test_another_decoder_is_a_warning(data: Data) -> None:
    service = Service()
    generator = torch.Generator().manual_seed(0)
    service.prepare = lambda data: careful(data) + 0.01 * torch.randn(3, 32, 32, generator=generator)
    assert "slightly other values" in only(service.examined(data, "S01"), "S01", "warning").message


def test_a_picture_that_serving_refuses_is_said(data: Data) -> None:
    service = Service()

    def prepare(given: bytes) -> Tensor:
        if Image.open(io.BytesIO(given)).mode == "CMYK":
            raise ValueError("no CMYK")
        return careful(given)

    service.prepare = prepare
    finding = only(service.examined(data, "S01"), "S01", "warning")
    assert "a CMYK JPEG" in finding.message and "no CMYK" in finding.evidence[0]


# S02

def test_a_network_in_training_mode_is_an_error(data: Data) -> None:
    service = Service()
    service.network.train()
    assert "training mode" in only(service.examined(data, "S02"), "S02").message


def test_a_network_without_its_batch_statistics_is_an_error(data: Data) -> None:
    service = Service()
    service.network[1].reset_running_stats()  # type: ignore[index]
    assert "the buffers were not loaded" in only(service.examined(data, "S02"), "S02").message


def test_the_best_of_a_training_is_right_and_another_network_is_an_error(data: Data) -> None:
    service = Service()
    nn.init.normal_(service.network[-1].weight)  # type: ignore[index]
    only(service.examined(data, "S02"), "S02")
    items = data.splits["train"].items
    someone = Patient(
        trained(), (items[0][0][None], torch.tensor([0])), data=data, training=Training(lambda: [], lambda: service.network),
        serving=Serving(careful, service.probabilities, LABELS, service.logits),
    )
    assert not visit(someone, [one for one in organ.EXAMINATIONS if one.code == "S02"], budget=600).findings


@pytest.mark.parametrize(("outputs", "said"), [
    (lambda logits: logits.softmax(1), "probabilities for logits"), (lambda logits: logits.flip(1), "in the order (1, 0)"),
    (lambda logits: logits + 3 * torch.tensor([0.0, 1.0]), ""),
])
def test_other_logits_are_an_error(data: Data, outputs: Callable[[Tensor], Tensor], said: str) -> None:
    service = Service()
    service.outputs = outputs
    assert said in only(service.examined(data, "S02"), "S02").message


def test_half_precision_is_right(data: Data) -> None:
    service = Service()
    service.network = service.network.bfloat16()
    prepare = service.prepare
    service.outputs = lambda logits: logits.float()
    logits = service.logits
    service.logits = lambda inputs: logits(inputs.bfloat16())  # type: ignore[method-assign]
    report = service.examined(data)
    assert prepare is service.prepare and report.is_healthy, str(report)


# S03

def test_labels_in_another_order_are_an_error(data: Data) -> None:
    service = Service()
    service.labels = LABELS[::-1]
    finding = only(service.examined(data), "S03")
    assert "dog stands for cat, cat stands for dog" in finding.message


def test_labels_and_outputs_in_another_order_together_are_right(data: Data) -> None:
    service = Service()
    service.labels = LABELS[::-1]
    service.answer = lambda logits: logits.softmax(1).flip(1)
    report = service.examined(data, "S03", "S04")
    assert not report.findings, str(report)


def test_answers_in_another_order_are_an_error(data: Data) -> None:
    service = Service()
    service.answer = lambda logits: logits.softmax(1).flip(1)
    assert "cat stands for dog" in only(service.examined(data), "S03").message


@pytest.mark.parametrize("labels", [("cat", "dog", "bird"), ("Cat", "Dog"), ("Katze", "Hund")])
def test_other_names_are_an_error_only_where_their_number_is_wrong(data: Data, labels: Sequence[str]) -> None:
    service = Service()
    service.labels = labels
    report = service.examined(data, "S03")
    assert len(report.errors) == (len(labels) == 3) and len(report.warnings) == (labels[0] == "Katze")


# S04

@pytest.mark.parametrize(("answer", "said"), [
    (lambda logits: logits.softmax(1).softmax(1), "softmax is applied twice"), (lambda logits: logits, "softmax is never applied"),
    (lambda logits: logits.sigmoid(), "sigmoid stands for softmax"), (lambda logits: logits.softmax(0), "over the batch"),
])
def test_a_wrong_formula_is_named(data: Data, answer: Callable[[Tensor], Tensor], said: str) -> None:
    service = Service()
    service.answer = answer
    errors = service.examined(data, "S04").errors
    assert any(said in finding.message for finding in errors), errors


def test_a_temperature_is_right(data: Data) -> None:
    service = Service()
    service.answer = lambda logits: (logits / 1.7).softmax(1)
    report = service.examined(data)
    assert not report.findings, str(report)


def test_answers_that_are_mixed_up_are_an_error(data: Data) -> None:
    service = Service()
    service.answer = lambda logits: logits.softmax(1).roll(1, 0)
    assert "another picture's" in only(service.examined(data, "S04"), "S04").message


def test_answers_that_depend_on_the_company_are_an_error(data: Data) -> None:
    service = Service()
    service.answer = lambda logits: (logits - logits.mean(0) if len(logits) > 1 else logits).softmax(1)
    assert "depends on what is asked with it" in only(service.examined(data, "S04"), "S04").message


def test_catdogs_own_preparation_is_one_function(tmp_path: Path, data: Data) -> None:
    from catdog import images

    preprocess = images.Preprocess(32)

    def prepare(given: bytes) -> Tensor:
        return torch.from_numpy(preprocess.pixels(images.decode(given)).copy())

    service = Service()
    service.prepare = prepare
    report = service.examined(replace(data, prepare=prepare, normalise=None), "S01")
    assert not report.findings, str(report)
