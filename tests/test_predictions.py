"""catdog/predictions.py, kinds.py: all pictures of a folder or a data set, a row each."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from catdog import sources
from catdog.errors import BadConfig, BadDataset, Conflict, CorruptPackage, DatasetChanged
from catdog.inference import Predictor
from catdog.kinds import PredictConfig, config_of
from catdog.plans import Labelling
from catdog.predictions import AT_ONCE, predict
from catdog.progress import Progress
from catdog.settings import Settings
from tests.living import command_line
from tests.pictures import lay_out, pets
from tests.serving import make_package, picture

RED, GREEN = picture((250, 10, 0)), picture((10, 250, 0))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings.load(data_dir=tmp_path / "data", max_image_bytes=10_000)
    made.make_folders()
    return made


@pytest.fixture
def digest(settings: Settings) -> str:
    return make_package(settings.models)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (run / "artifacts" / "predictions.ndjson").read_text().splitlines()]


def said(run: Path, settings: Settings, config: PredictConfig, **options: Any) -> Sequence[Progress]:
    config.write(run)
    return list(predict(run, settings, **options))


def test_every_picture_of_a_folder_has_a_row_and_a_bad_one_its_reason(settings: Settings, digest: str, tmp_path: Path) -> None:
    photos = lay_out(tmp_path / "photos", {
        "b/red.png": RED, "a.png": GREEN, "broken.png": RED[:60], "text.jpg": b"text", "large.png": RED + bytes(10_000), "notes.txt": b"x",
        "._a.png": b"left by a system", 'odd "name",\n=1.png': RED,
    })
    *_, done = said(tmp_path / "run", settings, PredictConfig(dataset=str(photos), digest=digest))
    rows = {row["name"]: row for row in rows_of(tmp_path / "run")}
    assert list(rows) == sorted(rows) == ["a.png", "b/red.png", "broken.png", "large.png", 'odd "name",\n=1.png', "text.jpg"]
    predictor = Predictor.load(settings.models / digest)
    expected = predictor.predict_file(photos / "b" / "red.png").to_dict()
    assert {name: rows["b/red.png"][name] for name in expected} == expected and rows["a.png"]["label"] == "dog"
    codes = {name: row["problem"]["code"] for name, row in rows.items() if "problem" in row}
    assert codes == {"broken.png": "bad_image", "large.png": "too_large", "text.jpg": "unsupported_type"}
    assert done.kind == "done" and done.result is not None
    counted = {name: done.result[name] for name in ("images", "refused", "abstained", "accuracy")}
    assert counted == {"images": 6, "refused": 3, "abstained": 0, "accuracy": None} and done.result["answers"] == {"dog": 1, "cat": 2}
    with (tmp_path / "run" / "artifacts" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == list(rows)
    assert float(table[1]["cat"]) == rows["b/red.png"]["probabilities"]["cat"] and table[2]["problem"] == "bad_image"


@pytest.fixture
def dataset(settings: Settings, tmp_path: Path) -> str:
    folder = lay_out(tmp_path / "pets", pets(12))
    return sources.import_path(folder, settings=settings, labelling=Labelling(), seed=0).id


def test_of_a_data_set_each_row_says_what_was_expected(settings: Settings, digest: str, dataset: str, tmp_path: Path) -> None:
    config = PredictConfig(dataset=dataset, digest=digest, model=7)
    *_, done = said(tmp_path / "run", settings, config)
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 24 and {row["expected"] for row in rows} == {"cat", "dog"}
    right = sum(row["expected"] == row["label"] for row in rows)
    assert done.result is not None and done.result["accuracy"] == right / 24 and done.result["model"] == 7
    *_, done = said(tmp_path / "test", settings, config.model_copy(update={"split": "test"}))
    assert {row["split"] for row in rows_of(tmp_path / "test")} == {"test"}


def test_its_accuracy_is_that_of_the_network_and_what_it_abstained_from_is_a_figure_of_its_own(settings: Settings, tmp_path: Path) -> None:
    photos = lay_out(tmp_path / "pets", {f"{label}/{light}.png": picture(colour) for light in range(20, 255, 20) for label, colour in (
        ("abstain", (light, 0, 0)), ("problem", (0, light, 0)),
    )})
    dataset = sources.import_path(photos, settings=settings, labelling=Labelling(), seed=0)
    unsure = make_package(settings.models, labels=("abstain", "problem"), confidence=0.9)
    *_, done = said(tmp_path / "run", settings, PredictConfig(dataset=dataset.id, digest=unsure))
    rows = rows_of(tmp_path / "run")
    given = [row["label"] for row in rows if row["label"] is not None]
    right = [row["probabilities"][row["expected"]] >= 0.5 for row in rows]
    assert 0 < len(given) < len(rows) and all(right) and done.result is not None
    assert done.result["abstained"] == len(rows) - len(given) and done.result["accuracy"] == 1
    assert done.result["answers"] == {label: given.count(label) for label in ("abstain", "problem")}


def test_an_attempt_goes_on_behind_the_whole_rows_of_the_one_before(settings: Settings, digest: str, tmp_path: Path) -> None:
    photos = lay_out(tmp_path / "photos", {f"{number:03d}.png": picture((number, 0, 0)) for number in range(5 * AT_ONCE)})
    config, run = PredictConfig(dataset=str(photos), digest=digest), tmp_path / "run"
    config.write(run)
    first = predict(run, settings, fence=1)
    done = next(one.step for one in first if one.kind == "step")
    assert done is not None
    (run / "rows" / "0000000.ndjson").write_text("an older attempt that got nowhere")
    second = list(predict(run, settings, fence=2))
    steps = [one.step or 0 for one in second if one.kind == "step"]
    assert min(steps, default=5 * AT_ONCE) > done or done == 5 * AT_ONCE
    before = (run / "artifacts" / "predictions.ndjson").read_bytes()
    with pytest.raises(FileNotFoundError):
        list(first)  # it was given up, lives on, and comes to nothing
    assert (run / "artifacts" / "predictions.ndjson").read_bytes().splitlines() == before.splitlines()
    assert [row["name"] for row in rows_of(run)] == sorted(path.name for path in photos.iterdir())
    (photos / "000.png").rename(photos / "zzz.png")
    with pytest.raises(DatasetChanged, match="place 0"):
        list(predict(run, settings, fence=3))


def test_an_older_attempt_that_thaws_takes_nothing_from_its_successor(settings: Settings, digest: str, tmp_path: Path) -> None:
    photos = lay_out(tmp_path / "photos", {f"{number:03d}.png": picture((number, 0, 0)) for number in range(5 * AT_ONCE)})
    run = tmp_path / "run"
    PredictConfig(dataset=str(photos), digest=digest).write(run)
    first, second = predict(run, settings, fence=1), predict(run, settings, fence=2)
    assert [next(first).phase, next(first).phase] == ["preparing", "predicting"]  # it stands still where it has loaded the package
    next(one for one in second if one.kind == "step")
    with pytest.raises(Conflict, match=r"Received: 0000001\.ndjson, after 0000002\.ndjson had begun"):
        list(first)
    assert [one.kind for one in second][-1] == "done"
    assert [row["name"] for row in rows_of(run)] == sorted(path.name for path in photos.iterdir())


def test_what_cannot_work_is_refused(settings: Settings, digest: str, dataset: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadDataset, match="none in"):
        said(tmp_path / "run", settings, PredictConfig(dataset=str(empty), digest=digest))
    with pytest.raises(DatasetChanged):
        said(tmp_path / "run", settings, PredictConfig(dataset="ds_" + "0" * 32, digest=digest))
    picture_file = next(path for path in (settings.datasets / dataset / "images").rglob("*") if path.is_file())
    (settings.models / digest / "golden" / "0.image").write_bytes(b"x")
    with pytest.raises(CorruptPackage):
        said(tmp_path / "run", settings, PredictConfig(dataset=dataset, digest=digest))
    (settings.models / digest / "golden" / "0.image").write_bytes(picture((200, 10, 0)))
    picture_file.write_bytes(b"x")
    with pytest.raises(DatasetChanged, match="other bytes"):
        said(tmp_path / "run", settings, PredictConfig(dataset=dataset, digest=digest))


def test_each_kind_has_its_config() -> None:
    fields = {"dataset": "ds_" + "0" * 32, "digest": "0" * 64}
    assert isinstance(config_of("predict", fields), PredictConfig)
    for kind, wrong in (("train", fields), ("predict", {"dataset": fields["dataset"]}), ("predict", fields | {"x": 1}), ("other", fields)):
        with pytest.raises(BadConfig, match="Received"):
            config_of(kind, wrong)


def test_the_command_line_answers_a_folder_and_goes_on(settings: Settings, digest: str, tmp_path: Path) -> None:
    photos = lay_out(tmp_path / "photos", {"red.png": RED, "green.png": GREEN})
    command = ["predict", "--data", str(photos), "--run", str(tmp_path / "run"), "--package", str(settings.models / digest)]
    done = command_line(*command, settings=settings)
    assert done.returncode == 0 and "answered: 2 of 2 pictures" in done.stdout and "predictions.csv" in done.stdout, done.stderr
    assert [row["label"] for row in rows_of(tmp_path / "run")] == ["dog", "cat"]
    with FileLock(tmp_path / "run" / "lock"):
        refused = command_line(*command, settings=settings)
    assert refused.returncode == 1 and "which another `catdog predict` fills" in refused.stderr
    other = make_package(settings.models, gain=3.0)
    refused = command_line(*command[:-1], str(settings.models / other), settings=settings)
    assert refused.returncode == 2 and "another digest, package" in refused.stderr
    red = str(photos / "red.png")
    for wrong in (["--data", str(photos)], ["--data", red, "--run", "run"], [], [*command[1:], red]):
        assert command_line("predict", *wrong, settings=settings).returncode == 2
