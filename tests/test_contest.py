"""contest, compare: which pictures two packages answer, and what is said of them; with real packages and without torch."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from catdog import contest
from catdog.comparison import Comparison
from catdog.contest import compare, unseen
from catdog.datasets import Dataset, Record
from catdog.errors import CorruptPackage, DatasetChanged
from catdog.inference import Predictor
from catdog.kinds import CompareConfig
from catdog.settings import Settings
from tests.rivals import GREENISH, make_rival, pictures_of_red_and_green

pytest_plugins = ["tests.service_fixtures"]


@pytest.fixture
def dataset(settings: Settings, tmp_path: Path) -> Dataset:
    return pictures_of_red_and_green(tmp_path / "pictures", settings, test=60)


def shas(dataset: Dataset, split: str) -> list[str]:
    return [record.sha256 for record in dataset.split(split)]


def compared(settings: Settings, dataset: Dataset, challenger: str, champion: str) -> Comparison:
    folder = settings.runs / "job_1"
    CompareConfig(dataset=dataset.id, challenger=2, champion=1).write(folder)
    *said, done = compare(folder, settings, challenger=settings.models / challenger, champion=settings.models / champion)
    assert [one.phase for one in said if one.kind == "phase"] == ["preparing", "comparing"]
    assert said[-1].kind == "step" and said[-1].step == said[-1].steps and done.kind == "done"
    assert done.result is not None and done.result["comparison"]["verdict"]
    return Comparison.from_dict(done.result["comparison"])


def test_every_picture_that_neither_has_seen_is_answered_by_both(settings: Settings, dataset: Dataset) -> None:
    """The champion tells red from green; the challenger takes what is a little greener than red for a cat."""
    champion, challenger = make_rival(settings, dataset), make_rival(settings, dataset, bias=GREENISH)
    assert compared(settings, dataset, challenger, champion) == Comparison(both=45, wins=0, losses=15, neither=0)
    assert compared(settings, dataset, champion, challenger) == Comparison(both=45, wins=15, losses=0, neither=0)
    assert compared(settings, dataset, champion, champion).verdict == "no_worse"


def test_what_either_was_made_with_is_left_out(settings: Settings, dataset: Dataset) -> None:
    test = shas(dataset, "test")
    champion = make_rival(settings, dataset, seen=test[:6])
    challenger = make_rival(settings, dataset, seen=test[4:9])
    assert compared(settings, dataset, challenger, champion).pictures == 51
    assert compared(settings, dataset, make_rival(settings, dataset, seen=test[6:11]), champion).verdict == "not_comparable"


def test_a_copy_of_what_was_seen_is_left_out_too(dataset: Dataset) -> None:
    first, second, *others = dataset.split("test")
    grouped = replace(dataset, records=tuple(replace(record, group=first.sha256) for record in (first, second)) + tuple(others))
    assert unseen(grouped, frozenset({first.sha256})) == others


def test_of_a_large_test_split_as_many_of_each_label_are_drawn(
    settings: Settings, dataset: Dataset, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contest, "MAX_PICTURES", 52)
    seen: list[str] = []
    read = Dataset.read

    def note(dataset: Dataset, record: Record) -> bytes:
        seen.append(record.label)
        return read(dataset, record)

    monkeypatch.setattr(Dataset, "read", note)
    package = make_rival(settings, dataset)
    assert compared(settings, dataset, package, package).pictures == 52
    assert sorted(seen) == ["cat"] * 26 + ["dog"] * 26


def test_a_package_that_does_not_say_what_it_has_seen_is_refused(settings: Settings, dataset: Dataset) -> None:
    champion = make_rival(settings, dataset)
    package = settings.models / champion
    loaded = Predictor.load(package)
    (package / "seen.txt").unlink()
    with pytest.raises(CorruptPackage, match=r"seen\.txt"):
        loaded.seen()


def answer_otherwise(settings: Settings, package: str, dataset: Dataset) -> None:
    (settings.models / package / "golden" / "0.image").write_bytes((settings.models / package / "golden" / "1.image").read_bytes())


def lose_a_picture(settings: Settings, package: str, dataset: Dataset) -> None:
    dataset.path(dataset.split("test")[0]).unlink()


def lose_the_data_set(settings: Settings, package: str, dataset: Dataset) -> None:
    (dataset.folder / "dataset.json").unlink()


@pytest.mark.parametrize(("strike", "error"), [
    (answer_otherwise, CorruptPackage), (lose_a_picture, DatasetChanged), (lose_the_data_set, DatasetChanged),
])
def test_what_cannot_be_compared_fails_with_its_name(
    settings: Settings, dataset: Dataset, strike: Callable[[Settings, str, Dataset], None], error: type[Exception],
) -> None:
    champion, challenger = make_rival(settings, dataset), make_rival(settings, dataset, bias=GREENISH)
    strike(settings, challenger, dataset)
    with pytest.raises(error):
        compared(settings, dataset, challenger, champion)


def test_another_data_set_than_the_challenger_was_tested_on_is_refused(settings: Settings, dataset: Dataset) -> None:
    challenger = make_rival(settings, dataset, fingerprint="0" * 64)
    with pytest.raises(DatasetChanged, match="another fingerprint"):
        compared(settings, dataset, challenger, challenger)


def test_the_command_compares_without_torch(settings: Settings, dataset: Dataset, tmp_path: Path) -> None:
    CompareConfig(dataset=dataset.id, challenger=2, champion=1).write(tmp_path / "run")
    package = str(settings.models / make_rival(settings, dataset))
    arguments = ["catdog", "run", str(tmp_path / "run"), "--kind", "compare", "--champion", package, "--challenger", package]
    program = f"import sys; sys.argv = {arguments!r}\nimport catdog.cli\n"
    program += "try:\n    catdog.cli.main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", program], env=settings.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and '"verdict": "no_worse"' in done.stdout, done.stderr
