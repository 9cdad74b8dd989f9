"""What the doctor says about data: each way to be wrong is found and named, and nothing that is right is called wrong."""

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from catdog.datasets import Dataset
from catdog.doctor import data as organ
from catdog.doctor.data import census
from catdog.doctor.findings import Finding, Report
from catdog.doctor.patient import Batch, Data, DataSplit, Intent, Patient
from catdog.doctor.visit import visit
from catdog.images import Preprocess
from catdog.loaders import Pictures, pixels, shuffled
from catdog.settings import Settings
from catdog.sources import import_folder
from tests.animals import DEVIATION, LABELS, MEAN, Host, Pets, crop, drawn, flipped, normalise, opened, split_of, to_tensor, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("animals") / "set"
    write(folder, {"train": (60, 60), "val": (25, 25), "test": (20, 20)})
    return folder


@pytest.fixture
def host(drawn_once: Path, tmp_path: Path) -> Host:
    """Its own copy of the files, to be changed."""
    folder = tmp_path / "set"
    shutil.copytree(drawn_once, folder)
    return Host({split: sorted((folder / split).iterdir()) for split in ("train", "val", "test")})


def patient(data: Data, *, intent: Intent | None = None) -> Patient:
    items = data.splits["train"].items
    batch = [items[position] for position in (0, 1, -2, -1)]
    inputs = torch.stack([torch.as_tensor(one[0]) for one in batch]).float()
    network = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), len(data.labels)))
    return Patient(network, (inputs, torch.tensor([int(one[1]) for one in batch])), data=data, intent=intent or Intent())


def examined(data: Data, *codes: str, intent: Intent | None = None) -> Report:
    chosen = [one for one in organ.EXAMINATIONS if not codes or one.code in codes]
    return visit(patient(data, intent=intent), chosen, budget=600)


def only(report: Report, code: str, severity: str = "error") -> Finding:
    found = [finding for finding in report.findings if finding.severity == severity]
    assert [finding.code for finding in found] == [code], str(report)
    return found[0]


def test_nothing_is_said_of_what_is_right(host: Host) -> None:
    report = examined(host.data())
    assert not report.findings, str(report)
    assert len(report.passed) == 10 and not report.not_run, str(report)


def test_there_is_an_examination_of_each_number() -> None:
    assert sorted(one.code for one in organ.EXAMINATIONS) == [f"D{number:02}" for number in range(1, 11)]


# D01

class Leaving(Pets):
    """Leaves by sys.exit over a file that it cannot read."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        try:
            return super().__getitem__(position)
        except OSError:
            sys.exit(f"{self.paths[position]} is broken")


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_leaves_by_sys_exit_is_examined_as_what_raises(host: Host, split: str) -> None:
    path = host.paths[split][3]
    path.write_bytes(path.read_bytes()[:300])
    raising, leaving = (examined(replace_kind(host, split, kind)) for kind in (Pets, Leaving))
    assert [finding.code for finding in raising.findings] == ["D01"], str(raising)
    assert leaving.findings == raising.findings and leaving.passed == raising.passed and leaving.not_run == raising.not_run


def test_a_broken_file_is_a_warning_where_the_data_set_raises(host: Host) -> None:
    path = host.paths["train"][3]
    path.write_bytes(path.read_bytes()[:300])
    finding = only(examined(host.data(), "D01"), "D01", "warning")
    assert str(path) in finding.culprit.what


class Forgiving(Pets):
    """Gives something else for what it cannot read."""

    def instead(self, position: int) -> tuple[Tensor, int]:
        return torch.zeros(3, 32, 32), self.label(self.paths[position])

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        try:
            return super().__getitem__(position)
        except OSError:
            return self.instead(position)


class Neighbourly(Forgiving):
    def instead(self, position: int) -> tuple[Tensor, int]:
        return self[position + 1][0], self.label(self.paths[position])


class Honest(Forgiving):
    """With the label of the other one."""

    def instead(self, position: int) -> tuple[Tensor, int]:
        return self[max(position, len(self) - 1)]


@pytest.mark.parametrize(("kind", "what"), [(Forgiving, "one value all over"), (Neighbourly, "the picture of")])
def test_a_broken_file_that_is_silently_replaced_is_an_error(host: Host, kind: type[Pets], what: str) -> None:
    host.paths["val"][3].write_bytes(b"no picture")
    finding = only(examined(replace_kind(host, "val", kind), "D01"), "D01")
    assert what in finding.message and "test_doctor_data.py" in str(finding.culprit.where)


def test_a_broken_file_that_is_replaced_together_with_its_label_is_a_warning(host: Host) -> None:
    host.paths["val"][3].write_bytes(b"no picture")
    only(examined(replace_kind(host, "val", Honest), "D01"), "D01", "warning")


def replace_kind(host: Host, split: str, kind: type[Pets], **changes: object) -> Data:
    host.kinds[split] = kind
    return host.data(**changes)


def test_a_fifth_of_broken_files_is_an_error(host: Host) -> None:
    for path in host.paths["train"][10:90]:
        path.write_bytes(b"")
    only(examined(host.data(), "D01"), "D01")


def test_pictures_of_16_bits_that_come_out_white_are_said(host: Host) -> None:
    values = np.random.default_rng(0).integers(2000, 60000, (40, 40)).astype(np.uint16)
    for path in host.paths["train"][2:50]:
        Image.fromarray(values).save(path)
    assert "16-bit" in only(examined(host.data(), "D01"), "D01").remedy  # usual() clips them, as Pillow's convert does


# D02

@pytest.mark.parametrize("name", ["cat_dog_{}.png", "dogcat.{}.png"])
def test_a_name_of_two_labels_is_an_error(host: Host, name: str) -> None:
    paths = host.paths["train"]
    for place in range(5):
        paths[place] = paths[place].rename(paths[place].with_name(name.format(place)))
    finding = only(examined(host.data(), "D02"), "D02")
    assert "cat, dog" in finding.evidence[0] and paths[0].name in finding.culprit.what


def test_a_label_inside_a_longer_word_is_no_second_label(host: Host) -> None:
    paths = host.paths["train"]
    paths[0] = paths[0].rename(paths[0].with_name("cat.of.dogma.png"))
    assert not examined(host.data(), "D02").findings


def test_a_name_of_no_label_is_an_error_and_a_rule_that_reads_none_is_no_rule(host: Host) -> None:
    paths = host.paths["val"]
    paths[0] = paths[0].rename(paths[0].with_name("bird.png"))
    host.kinds["val"] = type("Zero", (Pets,), {"__getitem__": lambda self, position: (self.prepare(self.paths[position].read_bytes()), 0)})
    only(examined(host.data(), "D02"), "D02")
    report = examined(host.data(labels_in=lambda _: []), "D02")
    assert report.is_healthy and "D02" in report.not_run


# D03

def test_copies_saved_again_in_val_are_an_error(host: Host) -> None:
    for place in range(6):
        Image.open(host.paths["train"][place]).save(host.paths["val"][place].with_suffix(".jpg"), quality=80)
        host.paths["val"][place] = host.paths["val"][place].with_suffix(".jpg")
    finding = only(examined(host.data(), "D03"), "D03")
    assert "6 of 50 pictures of val" in finding.message and "train" in finding.culprit.what


def test_mirrored_copies_are_found_too(host: Host) -> None:
    for place in range(8):
        Image.open(host.paths["train"][place]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(host.paths["test"][place])
    assert "8 of 40 pictures of test" in only(examined(host.data(), "D03"), "D03").message


def half(size: tuple[int, int], *, left: bool) -> Image.Image:
    """A mask that shows one part. Its edge is not in the middle, where the other part's would be the same one mirrored."""
    across = Image.linear_gradient("L").rotate(90).resize(size)
    return across.point(lambda value: 255 if (value > 100) == left else 0)


def cut(image: Image.Image, path: Path, *, left: bool) -> None:
    """Save one part of a picture; the colours of the other lie hidden in the file."""
    image.putalpha(half(image.size, left=left))
    image.save(path)


def test_what_a_palette_hides_is_seen() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.save(file := io.BytesIO(), "PNG", transparency=b"\xff\x00")
    under = census.opaque(file.getvalue())
    assert under is not None and under.getpixel((3, 3)) == (200, 10, 10)
    image.save(whole := io.BytesIO(), "PNG", transparency=b"\xff\xff")
    assert census.opaque(whole.getvalue()) is None


def test_copies_that_lost_their_transparency_are_found_too(host: Host) -> None:
    for place in range(6):
        path, copy = host.paths["train"][place], host.paths["val"][place].with_suffix(".jpg")
        cut(Image.open(path).convert("RGB"), path, left=True)
        Image.open(path).convert("RGB").save(copy, quality=80)
        host.paths["val"][place] = copy
    assert "6 of 50 pictures of val" in only(examined(host.data(), "D03"), "D03").message


@pytest.mark.parametrize("other", [lambda host, place: host.paths["val"][place], lambda host, place: host.paths["train"][-1 - place]])
def test_cut_outs_of_one_photograph_are_no_copies_whatever_their_labels(host: Host, other: Callable[[Host, int], Path]) -> None:
    for place in range(6):
        image = Image.open(host.paths["train"][place]).convert("RGB")
        cut(image, other(host, place), left=False)
        cut(image, host.paths["train"][place], left=True)
    assert not examined(host.data(), "D03").findings


@pytest.mark.parametrize("first", ["cut-out", "photograph"])
def test_a_cut_out_of_a_photograph_that_stands_beside_another_cut_out_is_a_copy(host: Host, first: str) -> None:
    for place in range(6):
        whole, part = (host.paths["train"][at] for at in ((place + 20, place) if first == "cut-out" else (place, place + 20)))
        image = Image.open(host.paths["train"][place]).convert("RGB")
        image.save(whole)
        cut(image, part, left=True)
        cut(image, host.paths["val"][place], left=False)
    assert "6 of 50 pictures of val" in only(examined(host.data(), "D03"), "D03").message


def test_a_few_near_copies_are_a_warning_and_two_exact_ones_of_fifty_are_an_error(host: Host) -> None:
    Image.open(host.paths["train"][0]).save(host.paths["val"][0].with_suffix(".jpg"), quality=80)
    host.paths["val"][0] = host.paths["val"][0].with_suffix(".jpg")
    only(examined(host.data(), "D03"), "D03", "warning")
    for place in (1, 2):
        shutil.copy(host.paths["train"][place], host.paths["val"][place])
    assert "2 of them to the pixel" in only(examined(host.data(), "D03"), "D03").evidence[0]


def test_one_picture_with_two_labels_is_an_error(host: Host) -> None:
    for place in (1, 2):
        shutil.copy(host.paths["train"][place], host.paths["train"][-place])
    assert "different labels" in only(examined(host.data(), "D03"), "D03").message


def test_one_picture_saved_again_with_another_label_is_a_warning(host: Host) -> None:
    host.paths["train"][-1] = host.paths["train"][-1].with_suffix(".jpg")
    Image.open(host.paths["train"][1]).save(host.paths["train"][-1], quality=80)
    assert "different labels" in only(examined(host.data(), "D03"), "D03", "warning").message


# D04

def test_an_unlucky_draw_is_a_warning_and_says_how_unlucky(host: Host) -> None:
    cats = [path for path in host.paths["train"] if "cat" in path.name]
    dogs = [path for path in host.paths["train"] if "dog" in path.name]
    host.paths["train"] = cats[:38] + dogs[:2]
    data = host.data(population=["cat"] * 60 + ["dog"] * 60)
    finding = only(examined(data, "D04"), "D04", "warning")
    assert finding.culprit.what == "dog" and "2 pictures of dog instead of 20" in finding.message
    for balance in ("weighted", "sampler"):
        assert not examined(replace(data, balance=balance), "D04").findings


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_label_without_pictures_is_an_error(host: Host, split: str) -> None:
    host.paths[split] = [path for path in host.paths[split] if "dog" in path.name]
    assert "no picture of cat" in only(examined(host.data(balance="weighted"), "D04"), "D04").message


def test_weights_that_make_the_common_commoner_are_a_warning(host: Host) -> None:
    dogs = [path for path in host.paths["train"] if "dog" in path.name]
    host.paths["train"] = [path for path in host.paths["train"] if "cat" in path.name] + dogs[:5]
    data = host.data(balance="weighted")
    assert "upside down" in only(examined(data, "D04", intent=Intent(label_weights=(1.8, 0.2))), "D04", "warning").message
    assert not examined(data, "D04", intent=Intent(label_weights=(0.2, 1.8))).findings


# D05

def turned(path: Path, orientation: int) -> None:
    """Save a picture so that it is upright only by its EXIF tag."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).transpose(back).save(path, exif=exif)


def upright(data: bytes) -> Tensor:
    return normalise(to_tensor(crop(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))))


def test_pictures_that_lie_on_their_side_are_a_warning(host: Host) -> None:
    for place in range(10):
        turned(host.paths["train"][place], (6, 8)[place % 2])
    assert "lie on their side" in only(examined(host.data(), "D05"), "D05", "warning").message
    host.prepare = upright
    assert not examined(host.data(), "D05").findings


def test_pictures_that_lie_on_their_side_in_training_only_are_an_error(host: Host) -> None:
    for place in range(10):
        turned(host.paths["train"][place], (6, 8)[place % 2])
    data = host.data(prepare=upright)
    sides = dict(data.splits)
    sides["val"] = split_of(Pets(host.paths["val"], upright))
    assert "everywhere but in training" in only(examined(replace(data, splits=sides), "D05"), "D05").message


# D06

def test_a_crop_without_a_resize_is_an_error(tmp_path: Path) -> None:
    host = Host(write(tmp_path / "set", {"train": (12, 12), "val": (10, 10)}, size=(300, 260)))
    host.prepare = lambda data: normalise(to_tensor(crop(opened(data), short=260)))
    finding = only(examined(host.data(), "D06"), "D06")
    assert "1.3%" in finding.message or "1.4%" in finding.message, finding
    assert "test_doctor_data.py" in str(finding.culprit.where)


def letterbox(data: bytes) -> Tensor:
    image = opened(data)
    image.thumbnail((32, 32))
    square = Image.new("RGB", (32, 32), (114, 114, 114))
    square.paste(image, ((32 - image.width) // 2, (32 - image.height) // 2))
    return normalise(to_tensor(square))


def test_a_letterbox_and_a_stretch_keep_everything(tmp_path: Path) -> None:
    host = Host(write(tmp_path / "set", {"train": (12, 12), "val": (10, 10)}, size=(120, 50)))
    for prepare in (letterbox, lambda data: normalise(to_tensor(opened(data).resize((32, 32))))):
        host.prepare = prepare
        assert not examined(host.data(), "D06", "D07").findings


# D07

def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values))[:, None, None]


def as_it_is(values: Tensor) -> Tensor:
    return values


def prepared(
    *, before: Callable[[Tensor], Tensor] = as_it_is, normalise: Callable[[Tensor], Tensor] = normalise,
) -> Callable[[bytes], Tensor]:
    """usual, with something else done to the pixels (0..1) or to what they are normalised to."""

    def prepare(data: bytes) -> Tensor:
        return normalise(before(to_tensor(crop(opened(data)))))

    return prepare


WRONG = {
    "red and blue are exchanged": prepared(before=lambda values: values.flip(0)),
    "normalised twice": prepared(normalise=lambda values: normalise(normalise(values))),
    "divided by 255 twice": prepared(before=lambda values: values / 255),
    "not normalised": prepared(normalise=lambda values: values),
    "normalised without being divided by 255": prepared(before=lambda values: values * 255),
    "normalised by 0.5 and 0.5": prepared(normalise=lambda values: (values - 0.5) / 0.5),
    "mean and deviation are exchanged": prepared(
        normalise=lambda values: (values - column(DEVIATION)) / column(MEAN),
    ),
    "the mean is not subtracted": prepared(normalise=lambda values: values / column(DEVIATION)),
    "the channels are green, blue, red": prepared(before=lambda values: values[[1, 2, 0]]),
    "behind the normalisation": prepared(normalise=lambda values: normalise(values).flip(0)),
    "scrambled": prepared(before=lambda values: values.permute(1, 2, 0).reshape(3, 32, 32)),
    "transposed": prepared(before=lambda values: values.transpose(1, 2)),
    "upside down": prepared(before=lambda values: values.flip(1)),
    "light and dark": prepared(before=lambda values: 1 - values),
    "every channel carries red": prepared(before=lambda values: values[[0, 0, 0]]),
    "red and blue are exchanged (BGR), and the values are normalised twice": prepared(
        normalise=lambda values: normalise(normalise(values.flip(0))),
    ),
    "4 are left: the values are cut": prepared(normalise=lambda values: normalise(values).long().float()),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_card_names_what_is_wrong_with_the_values(host: Host, name: str) -> None:
    host.prepare = WRONG[name]
    finding = only(examined(host.data(), "D07"), "D07")
    assert name.removeprefix("the ") in finding.message.lower().replace("bgr", "BGR"), finding
    assert "test_doctor_data.py" in str(finding.culprit.where)


def as_bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(crop(opened(data))))


def to_grey(values: Tensor) -> Tensor:
    return (values * torch.tensor((0.299, 0.587, 0.114))[:, None, None]).sum(0).expand(3, -1, -1)


RIGHT: dict[str, tuple[Callable[[bytes], Tensor], dict[str, object]]] = {
    "bytes with the channels last": (as_bytes, {"normalise": None}),
    "values in 0..1": (prepared(normalise=lambda values: values), {"normalise": None}),
    "grey pictures in three channels": (prepared(before=to_grey), {}),
    "one channel of its own": (
        lambda data: (to_grey(to_tensor(crop(opened(data))))[:1] - 0.2) / 0.1,
        {"normalise": ((0.2,), (0.1,))},
    ),
    "BGR that is declared": (prepared(before=lambda values: values.flip(0)), {"channels": "BGR"}),
    "normalised by each picture": (
        prepared(normalise=lambda values: (values - values.mean()) / values.std().clamp_min(1e-3)), {"normalise": None},
    ),
    "every picture equalised": (lambda data: normalise(to_tensor(crop(ImageOps.equalize(opened(data))))), {}),
    "normalised by 0.5": (prepared(normalise=lambda values: (values - 0.5) / 0.5), {"normalise": ((0.5,) * 3, (0.5,) * 3)}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_preparation_that_is_as_declared_is_right(host: Host, name: str) -> None:
    host.prepare, changes = RIGHT[name]
    host.augment = None
    report = examined(host.data(**changes))
    assert report.is_healthy, str(report)


class OneForAll(Pets):
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return super().__getitem__(0)[0], self.label(self.paths[position])


def test_a_data_set_that_gives_one_picture_for_all_is_an_error(host: Host) -> None:
    report = examined(replace_kind(host, "val", OneForAll), "D07")
    assert "one and the same" in only(report, "D07").message


class Bare(Pets):
    """train without the normalisation that val has."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return flipped(to_tensor(crop(opened(self.paths[position].read_bytes())))), self.label(self.paths[position])


class Blue(Pets):
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        values, label = super().__getitem__(position)
        return values.flip(0), label


def test_train_that_is_prepared_otherwise_than_val_is_an_error(host: Host) -> None:
    finding = only(examined(replace_kind(host, "train", Bare), "D07"), "D07")
    assert "not normalised" in finding.message and finding.culprit.what == "train"


def test_val_that_is_prepared_otherwise_than_prepare_is_an_error(host: Host) -> None:
    assert "red and blue are exchanged" in only(examined(replace_kind(host, "val", Blue), "D08"), "D08").message


# D08

class Apart(Pets):
    """Pictures in one order, labels in another."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return super().__getitem__((position * 7 + 3) % len(self))[0], self.label(self.paths[position])


class Shuffled(Pets):
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return super().__getitem__(position)[0], self.label(self.paths[(position * 7 + 3) % len(self)])


class Numbered(Pets):
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        values, label = super().__getitem__(position)
        return values, 1 - label


class FromOne(Pets):
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        values, label = super().__getitem__(position)
        return values, 1 + label


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("kind", "said"), [
    (Apart, "pictures and the files of {} are in different orders"), (Shuffled, "labels and the files of {} are in different orders"),
    (Numbered, "labels of {} are numbered in another order"),
])
def test_labels_and_pictures_that_are_apart_are_an_error(host: Host, split: str, kind: type[Pets], said: str) -> None:
    finding = only(examined(replace_kind(host, split, kind), "D08"), "D08")
    assert said.format(split) in finding.message and split in finding.culprit.what


def test_labels_that_count_from_one_are_an_error(host: Host) -> None:
    report = examined(replace_kind(host, "val", FromOne), "D08")
    assert "has the label 2" in report.errors[0].message


# D09

def test_labels_that_say_nothing_of_the_pictures_are_a_warning_where_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    paths = []
    for number in range(420):
        path = tmp_path / "train" / f"{LABELS[number % 2]}.{number}.png"
        drawn((number * 7919 // 13) % 2, number, size=(24, 20)).save(path)
        paths.append(path)
    data = Host({"train": paths, "val": paths[:20]}).data()
    report = examined(data, "D09")
    agree = sum((number * 7919 // 13) % 2 == number % 2 for number in range(420))
    assert 190 < agree < 230
    assert report.warnings and "say nothing" in report.warnings[0].message, str(report)


def test_a_label_that_the_day_of_the_file_gives_away_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    generator = np.random.default_rng(0)
    paths = []
    for number in range(120):
        path = tmp_path / "train" / f"{LABELS[number % 2]}.{number}.png"
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
        os.utime(path, (86_400 * (1000 + number % 2), 86_400 * (1000 + number % 2)))
        paths.append(path)
    finding = only(examined(Host({"train": paths, "val": paths[:20]}).data(), "D09"), "D09", "warning")
    assert finding.culprit.what == "day of change"


# D10

class Trembling(Pets):
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        values, label = super().__getitem__(position)
        return flipped(values), label


class Seeded(Pets):
    """A generator of its own that every worker gets a copy of."""

    rng: np.random.Generator

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.rng = np.random.default_rng(0)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        values, label = super().__getitem__(position)
        return values + self.rng.normal(0, 0.1), label


def test_a_validation_that_is_random_is_an_error(host: Host) -> None:
    finding = only(examined(replace_kind(host, "val", Trembling), "D10"), "D10")
    assert "val changes from look to look" in finding.message and finding.culprit.where is not None


def test_an_augmentation_that_does_nothing_is_an_error(host: Host) -> None:
    host.augment = lambda values: values
    assert "never does" in only(examined(host.data(), "D10"), "D10").message


def test_the_same_random_numbers_in_every_worker_are_an_error(host: Host) -> None:
    host.augment = None
    finding = only(examined(replace_kind(host, "train", Seeded, augmented=True), "D10"), "D10")
    assert finding.culprit.what == "Seeded.rng" and "in every worker and in every epoch" in finding.message


def test_an_order_sorted_by_label_is_an_error(host: Host) -> None:
    host.shuffle = False
    assert only(examined(host.data(), "D10"), "D10").culprit.what == "shuffle=False"
    assert not examined(host.data(order="sequential"), "D10").findings


def test_a_loader_of_another_kind_is_gone_through(host: Host) -> None:
    data = host.data()
    train = data.splits["train"].items

    def loader(split: str, workers: int, shuffled: bool = True) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(host.paths[split])).tolist() if shuffled else range(len(host.paths[split]))
        rows = [train[position] for position in order]
        batches = [rows[at : at + 8] for at in range(0, len(rows), 8)]
        return [(torch.stack([one for one, _ in batch]), torch.tensor([label for _, label in batch])) for batch in batches]

    assert not examined(replace(data, loader=loader), "D10").findings
    report = examined(replace(data, loader=lambda split, workers: loader(split, workers, shuffled=False)), "D10")
    assert "sorted by label" in only(report, "D10").message


def test_epochs_that_leave_out_the_same_pictures_are_an_error(host: Host) -> None:
    data = host.data()

    def loader(split: str, workers: int) -> DataLoader[tuple[Tensor, int]]:
        part = torch.utils.data.SubsetRandomSampler(range(0, len(host.paths[split]), 2 if split == "train" else 1))
        return DataLoader(data.splits[split].items, batch_size=8, sampler=part)  # type: ignore[arg-type]

    assert "60 pictures of train are never trained on" in only(examined(replace(data, loader=loader), "D10"), "D10").message


def test_an_epoch_without_a_batch_is_an_error(host: Host) -> None:
    data = host.data()

    def loader(split: str, workers: int) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(data.splits[split].items, batch_size=500, drop_last=split == "train", shuffle=True)  # type: ignore[arg-type]

    assert "no batch" in only(examined(replace(data, loader=loader), "D10"), "D10").message


def test_a_weighted_sampler_that_is_declared_is_right(host: Host) -> None:
    data = host.data(order="weighted", balance="sampler")

    def loader(split: str, workers: int) -> DataLoader[tuple[Tensor, int]]:
        sampler = WeightedRandomSampler([1.0] * len(host.paths[split]), len(host.paths[split])) if split == "train" else None
        return DataLoader(data.splits[split].items, batch_size=8, sampler=sampler)  # type: ignore[arg-type]

    assert not examined(replace(data, loader=loader), "D10").findings
    report = examined(replace(data, loader=loader, order="shuffled"), "D10")
    assert "more than once" in only(report, "D10").message


# The whole

def test_an_examination_of_data_leaves_the_generators_as_they_were(host: Host) -> None:
    data = replace_kind(host, "train", Seeded)
    rng = data.splits["train"].items.rng  # type: ignore[attr-defined]
    someone = patient(data)
    before = (rng.bit_generator.state, torch.get_rng_state(), np.random.get_state()[1].tolist())  # type: ignore[index]
    report = visit(someone, organ.EXAMINATIONS, budget=600)
    after = (rng.bit_generator.state, torch.get_rng_state(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]
    assert not [finding for finding in report.findings if finding.code == "S00"]




@dataclass
class Views:
    """catdog's own pictures, drawn anew at every look."""

    pictures: Pictures
    looks: int = 0

    def __len__(self) -> int:
        return len(self.pictures.records)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        self.looks += 1
        view = self.pictures.view(self.pictures.decode(position), position, self.looks)
        return torch.from_numpy(view.copy()), int(self.pictures.targets[position])


def own_data(dataset: Dataset, *, image_size: int = 64) -> Data:
    """A data set of catdog's, as the gate of a job hands it over."""
    preprocess, epochs = Preprocess(image_size), count()
    views = {
        split: Views(Pictures(dataset, dataset.split(split), preprocess, "default" if split == "train" else "none"))
        for split in ("train", "val", "test")
    }
    paths = {split: [dataset.path(record) for record in own.pictures.records] for split, own in views.items()}
    records = {dataset.path(record): record for record in dataset.records}

    def loader(split: str, workers: int) -> Iterable[Batch]:
        loaded, epoch = pixels(views[split].pictures, threads=1), next(epochs)
        order = shuffled(len(loaded), seed=0, epoch=epoch) if split == "train" else None
        return loaded.batches(loaded.plan(16, order), epoch=epoch)

    return Data(
        labels=dataset.labels, splits={split: DataSplit(own, paths[split]) for split, own in views.items()},  # type: ignore[arg-type]
        labels_in=lambda path: [records[path].label], prepare=lambda data: torch.from_numpy(preprocess.pixels_of(data).copy()),
        loader=loader, augmented=True, records=records,
    )


@pytest.fixture(scope="module")
def photographs(shared_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some real ones, dog.74 and dog.180 among them, which show the same."""
    folder = tmp_path_factory.mktemp("photographs") / "pictures"
    for split, number in (("train", 90), ("val", 20), ("test", 20)):
        (folder / split).mkdir(parents=True)
        for label in LABELS:
            for path in sorted(shared_data("dogs_vs_cats", split).glob(f"{label}.*.jpg"))[:number]:
                shutil.copy(path, folder / split)
    for place, name in (("train", "dog.74.jpg"), ("val", "dog.180.jpg")):
        (source,) = shared_data("dogs_vs_cats").rglob(name)
        for path in folder.rglob(name):
            path.unlink()
        shutil.copy(source, folder / place)
    return folder


def test_nothing_is_wrong_with_real_photographs(photographs: Path) -> None:
    host = Host({split: sorted((photographs / split).iterdir()) for split in ("train", "val", "test")})
    finding = only(examined(host.data()), "D03", "warning")
    assert "dog.180.jpg" in finding.culprit.what and "dog.74.jpg" in finding.culprit.what


def test_nothing_is_wrong_with_a_data_set_of_catdogs_own_and_its_files_are_not_read_again(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = import_folder(photographs, tmp_path / "datasets", settings=Settings.load(data_dir=tmp_path))
    looked: list[Path] = []
    monkeypatch.setattr(census, "look", looked.append)
    report = examined(own_data(dataset))
    assert not report.findings and not report.not_run and not looked, str(report)
