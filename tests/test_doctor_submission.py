"""catdog doctor --model FILE.py:Class: whatever is wrong with somebody's file is one finding, with its line where there is one."""

import importlib
import sys
from pathlib import Path

import pytest

from catdog.config import TrainConfig
from catdog.datasets import Dataset
from catdog.doctor.findings import Report
from catdog.doctor.submission import Input, examine_submitted
from catdog.errors import BadConfig, BadInput
from tests.living import Finished

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCE = """
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self, labels=2, channels=3):
        super().__init__()
        self.look = nn.Conv2d(channels, 8, 3, stride=2)
        self.answer = nn.Linear(8, labels)
    def forward(self, images):
        return self.answer(self.look(images).relu().mean((2, 3)))
class Pixels(Good):
    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        return super().forward(pixels.movedim(3, 1) / 255)
class Needs(Good):
    def __init__(self, width, labels):
        super().__init__(labels)
class Pair(Good):
    def forward(self, images):
        return super().forward(images), images
class Named(Good):
    def forward(self, images):
        return {"scores": super().forward(images)}
class Elsewhere(Good):
    def __init__(self):
        super().__init__()
        self.to("meta")
class Split(Good):
    def forward(self, images):
        return super().forward(images.to("meta"))
class Fixed(Good):
    def forward(self, images):
        return super().forward(images.view(-1, 3, 7, 7))
class Raises(Good):
    def __init__(self):
        raise RuntimeError("no such luck")
def make(image_size):
    assert image_size == 32
    return Good()
def words():
    return "a network"
"""

LINE = f"theirs.py:{next(number for number, line in enumerate(SOURCE.splitlines(), 1) if 'no such luck' in line)}"


@pytest.fixture
def dataset(finished: Finished) -> Dataset:
    return Dataset.open(finished.settings.datasets / TrainConfig.read(finished.run).dataset)


def examined(folder: Path, dataset: Dataset, name: str, *, source: str = SOURCE, given: Input = "images") -> Report:
    (folder / "theirs.py").write_text(source)
    return examine_submitted(f"{folder / 'theirs.py'}:{name}", dataset, image_size=32, given=given, budget=600)


@pytest.mark.parametrize(("name", "given"), [("Good", "images"), ("make", "images"), ("Pixels", "pixels")])
def test_a_network_that_does_is_healthy(tmp_path: Path, dataset: Dataset, name: str, given: Input) -> None:
    report = examined(tmp_path, dataset, name, given=given)
    assert report.is_healthy and {"M01", "L05", "D07"} <= set(report.passed), report


@pytest.mark.parametrize(
    ("name", "expected", "where"),
    [
        ("Needs", "needs arguments that nobody here can know: width", None), ("Pair", "returns a tuple", None),
        ("Named", "returns a dict", None), ("Elsewhere", "on the device meta", None), ("Fixed", "cannot take a batch of shape", None),
        ("Raises", "cannot be built", LINE), ("words", "gives a str, and no torch.nn.Module", None),
        ("Goods", "has no class or function 'Goods'", None),
    ],
)
def test_what_does_not_do_is_one_finding(tmp_path: Path, dataset: Dataset, name: str, expected: str, where: str | None) -> None:
    report = examined(tmp_path, dataset, name)
    (finding,) = report.findings
    assert finding.severity == "error" and expected in finding.message and finding.remedy and finding.culprit.where == where
    assert "M01" in report.not_run, "what could not be asked is listed"


def test_a_batch_on_the_wrong_device_is_a_finding(tmp_path: Path, dataset: Dataset) -> None:
    (finding,) = examined(tmp_path, dataset, "Split").findings
    assert finding.severity == "error" and "meta" in str(finding)


@pytest.mark.parametrize(
    ("source", "evidence", "where"),
    [
        ("import no_such_module", "No module named 'no_such_module'", "theirs.py:1"), ("x = 1\ndef f(:", "SyntaxError", "theirs.py:2"),
        ("import sys\n\nsys.exit(3)", "SystemExit", "theirs.py:3"),
    ],
)
def test_a_file_that_does_not_import_is_a_finding(tmp_path: Path, dataset: Dataset, source: str, evidence: str, where: str) -> None:
    (finding,) = examined(tmp_path, dataset, "Good", source=source).findings
    assert "cannot be imported" in finding.message and evidence in finding.evidence[0] and finding.culprit.where == where


def test_a_file_called_as_one_of_pythons_takes_nobodys_place(tmp_path: Path, dataset: Dataset) -> None:
    file = tmp_path / "colorsys.py"
    file.write_text("from dataclasses import dataclass\nfrom torch import nn\n\n@dataclass\nclass Good(nn.Module):\n    unbuilt: int\n")
    before = sys.path.copy()
    (finding,) = examine_submitted(f"{file}:Good", dataset, image_size=32, given="images", budget=600).findings
    assert "needs arguments" in finding.message
    assert sys.path == before and importlib.import_module("colorsys").__file__ != str(file)


def test_what_lies_beside_a_file_is_found_when_it_is_asked_for(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "beside_it.py").write_text("LABELS = 2\n")
    source = "from torch import nn\nclass Good(nn.Linear):\n    def __init__(self): super().__init__(3, 2)\n" \
             "    def forward(self, images):\n        from beside_it import LABELS\n" \
             "        return super().forward(images.mean((2, 3)))[:, :LABELS]\n"
    report = examined(tmp_path, dataset, "Good", source=source)
    assert "M01" in report.passed, report


def test_a_network_that_leaves_is_a_finding(tmp_path: Path, dataset: Dataset) -> None:
    source = "import sys\nfrom torch import nn\nclass Good(nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n" \
             "    def forward(self, images): sys.exit(3)\n"
    (finding,) = examined(tmp_path, dataset, "Good", source=source).findings
    assert finding.code == "M10" and "SystemExit: 3" in finding.evidence[0]


def test_a_file_that_is_not_there_and_a_name_that_is_none_are_wrong_input(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(BadInput, match="Expected a Python file"):
        examine_submitted(f"{tmp_path / 'none.py'}:Good", dataset, image_size=32, given="images", budget=600)
    with pytest.raises(BadConfig, match="Expected the name of a network"):
        examine_submitted("resnet19", dataset, image_size=None, given="images", budget=600)


def test_a_network_of_the_catalogue_is_examined_by_its_name(dataset: Dataset) -> None:
    report = examine_submitted("squeezenet1_1", dataset, image_size=None, given="images", budget=600)
    assert report.is_healthy and "M01" in report.passed, report
