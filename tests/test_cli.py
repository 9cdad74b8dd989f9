"""cli: what a user types, what comes back, and exit codes that mean something."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog import __version__
from catdog import run as phases
from catdog.cli.exits import EXIT_CODES
from catdog.cli.terminal import REPORTED_NAMES
from catdog.config import TrainConfig
from catdog.errors import NoDevice
from catdog.machine import Machine
from catdog.settings import Settings, described
from tests.brought import SOURCE, bring
from tests.living import Finished, command_line
from tests.pictures import lay_out, pets


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path / "data")


def test_train_says_what_it_found_and_where_the_package_is(finished: Finished) -> None:
    assert "device: " in finished.printed
    assert "test split: accuracy " in finished.printed
    assert (finished.run / "package" / "package.json").exists()


def test_predict_answers_with_a_package(finished: Finished) -> None:
    picture = str(next(finished.pictures.iterdir()))
    done = command_line("predict", "--package", str(finished.run / "package"), "--json", picture, settings=finished.settings)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["file"] == picture and set(answer["probabilities"]) == {"cat", "dog"}
    assert (answer["decision"], answer["label"] is None) in (("label", False), ("abstain", True))
    said = command_line("predict", "--package", str(finished.run / "package"), picture, settings=finished.settings).stdout
    assert f"{answer['label']} " in said if answer["label"] else "none: unlike the pictures it was trained on (at best " in said


def test_a_package_is_judged(finished: Finished, tmp_path: Path) -> None:
    """By its own pictures, and by noise, which is none of them."""
    noise = tmp_path / "noise"
    noise.mkdir()
    for seed in range(5):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noise / f"{seed}.png")
    (noise / "broken.png").write_bytes(b"nothing")
    judge = ("models", "judge", str(finished.run / "package"), "--data", str(finished.pictures), "--strangers", str(noise))
    done = command_line(*judge, "--json", "--picture", str(tmp_path / "drawn.svg"), settings=finished.settings)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["images"] == 40 and figures["strange_images"] == 5 and figures["unreadable"] == 1
    low, high = figures["ece_of_calibrated"]
    assert 0 <= low < high < 1 and 0 <= figures["auroc_of_distance"] <= 1
    assert "before calibration" in (tmp_path / "drawn.svg").read_text()
    table = command_line(*judge, settings=finished.settings).stdout
    assert "40 pictures of the labels" in table and "5 pictures of none" in table and "broken.png" in table


def test_a_package_is_judged_by_its_own_labels_alone(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "rabbit.1.png").write_bytes(b"nothing")
    done = command_line(
        "models", "judge", str(finished.run / "package"), "--data", str(tmp_path), "--labels", "cat,rabbit", settings=finished.settings,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: Expected ") and "Traceback" not in done.stderr


def test_predict_before_any_model_exits_2(settings: Settings, finished: Finished) -> None:
    done = command_line("predict", str(next(finished.pictures.iterdir())), settings=settings)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Expected published models") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("model=resnet19", "resnet18"),
        ("epochs=0", "epochs"),
        ("colour=red", "colour"),
        ("epochs", "--set FIELD=VALUE"),
        ("model=resnet18", "catdog models fetch resnet18"),
        ("image_size=7", "image_size"),
        ("warmup_steps=9999", "Set warmup_steps to "),
    ],
)
def test_a_config_that_cannot_work_exits_2_with_one_line(finished: Finished, tmp_path: Path, assignment: str, expected: str) -> None:
    where = ["--data", str(finished.pictures), "--run", str(tmp_path / "run")]
    done = command_line("train", *where, "--set", assignment, settings=finished.settings)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and expected in done.stderr and done.stderr.count("\n") == 1


def test_ambiguous_and_unlabelled_names_are_listed_and_nothing_remains(settings: Settings, tmp_path: Path, finished: Finished) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = next(finished.pictures.iterdir()).read_bytes()
    for name in ("cat.1.jpg", "dog.1.jpg", "dog_vs_cat.jpg", "catdog.jpg"):
        (folder / name).write_bytes(picture)
    done = command_line("data", "import", str(folder), settings=settings)
    assert done.returncode == 2
    assert "dog_vs_cat.jpg" in done.stderr and "catdog.jpg" in done.stderr
    assert list(settings.datasets.iterdir()) == []


def test_the_same_folder_twice_is_one_data_set(finished: Finished) -> None:
    ids = {command_line("data", "import", str(finished.pictures), settings=finished.settings).stdout.split()[-1] for _ in range(2)}
    assert len(ids) == 1 and ids.pop().startswith("ds_")


def test_config_shows_where_a_value_came_from(settings: Settings) -> None:
    done = command_line("config", settings=settings)
    assert done.returncode == 0
    for name in Settings.model_fields:
        assert f"CATDOG_{name.upper()}" in done.stdout, name
    assert f"CATDOG_DATA_DIR = {settings.data_dir}  (environment)" in done.stdout


def test_models_list_names_every_network(settings: Settings) -> None:
    done = command_line("models", "list", settings=settings)
    assert done.returncode == 0
    for name in ("efficientnet_lite0", "unet", "resnet18", "vit_b_16"):
        assert name in done.stdout


def test_a_misspelt_variable_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_DATADIR", "x")
    assert "warning: CATDOG_DATADIR" in command_line("config", settings=settings).stderr


def test_an_unsafe_bind_is_refused(settings: Settings) -> None:
    done = command_line("up", "--host", "0.0.0.0", settings=settings)
    assert done.returncode == 2 and "CATDOG_TOKEN_FILE" in done.stderr and done.stderr.count("\n") == 1


def test_a_run_goes_on_only_as_what_it_was(finished: Finished) -> None:
    where = ["--data", str(finished.pictures), "--run", str(finished.run)]
    done = command_line("train", *where, "--set", "epochs=9", "--set", "loss=mse", settings=finished.settings)
    assert done.returncode == 2
    assert "another" in done.stderr and "loss" in done.stderr and "--run" in done.stderr


def test_train_goes_on_from_another_run_with_its_config(finished: Finished, tmp_path: Path) -> None:
    where = ["--data", str(finished.pictures), "--run", str(tmp_path / "run"), "--resume-from", str(finished.run)]
    wrong = command_line("train", *where, "--set", "seed=4", settings=finished.settings)
    assert wrong.returncode == 2 and "seed: expected 0, as in the run that is resumed" in wrong.stderr and not (tmp_path / "run").exists()
    done = command_line("train", *where, "--set", "epochs=4", settings=finished.settings)
    assert done.returncode == 0, done.stderr
    assert TrainConfig.read(tmp_path / "run") == TrainConfig.read(finished.run).resumed({"epochs": 4})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines[:3] == (finished.run / "metrics.jsonl").read_text().splitlines() and len(lines) == 4
    none = command_line("train", *where[:-1], str(tmp_path / "typo"), settings=finished.settings)
    assert none.returncode == 2 and "typo" in none.stderr


def test_a_mistyped_package_is_named(finished: Finished, tmp_path: Path) -> None:
    done = command_line("predict", "--package", str(tmp_path / "typo"), "x.jpg", settings=finished.settings)
    assert done.returncode == 2 and "typo" in done.stderr


def test_a_name_with_brackets_is_printed_as_it_is(finished: Finished, tmp_path: Path) -> None:
    picture = tmp_path / "cat[old] [bold].jpg"
    picture.write_bytes(next(finished.pictures.iterdir()).read_bytes())
    done = command_line("predict", "--package", str(finished.run / "package"), str(picture), settings=finished.settings)
    assert done.returncode == 0 and str(picture) in done.stdout


def test_config_shows_no_password(settings: Settings) -> None:
    done = command_line("config", settings=settings.model_copy(update={"redis_url": "redis://user:hunter2@127.0.0.1:1/0"}))
    assert "hunter2" not in done.stdout and "redis://user:***@127.0.0.1:1/0" in done.stdout


def test_what_a_run_leaves_is_open_to_whom_its_folder_is(finished: Finished) -> None:
    left = [path for name in ("checkpoints", "package") for path in (finished.run / name).rglob("*") if path.is_file()]
    assert {".json", ".safetensors", ".onnx"} <= {path.suffix for path in left}
    for path in left:
        assert path.stat().st_mode & 0o666 == path.parent.stat().st_mode & 0o666, path


def test_config_names_a_secret_file_and_not_its_secret(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "catdog_redis_url").write_text("redis://:hunter2@127.0.0.1:1/0\n")
    program = f"""
from pathlib import Path
from catdog import cli
cli.Settings.secrets_folder = Path({str(tmp_path)!r})
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program, "config"], capture_output=True, text=True, check=True)
    assert "CATDOG_REDIS_URL = redis://:***@127.0.0.1:1/0  (file)" in done.stdout and "hunter2" not in done.stdout + done.stderr


def test_the_doctor_shows_the_machine_and_makes_nothing(settings: Settings) -> None:
    done = command_line("doctor", "system", settings=settings)
    assert done.returncode == 0, done.stderr
    for line in (f"cpus: {Machine.look().cpus} ", "memory: ", "shared memory: ", "disk: ", f"user: uid {os.geteuid()}", "folders: "):
        assert sum(printed.startswith(line) for printed in done.stdout.splitlines()) == 1, done.stdout
    assert f"catdog {__version__}" in done.stdout and "computes on: " in done.stdout and not settings.root.exists()


def test_the_doctor_finds_an_error_and_exits_3(settings: Settings) -> None:
    settings.make_folders()
    settings.models.chmod(0o777)
    done = command_line("doctor", "system", settings=settings)
    assert done.returncode == 3
    assert [line for line in done.stdout.splitlines() if line.startswith(("error: ", "warning: "))] == [
        f"error: folder: Expected a folder that not everybody may write into. Received: {described(settings.models)}. "
        f"Run: chmod o-w {settings.models}",
    ]
    facts = json.loads(command_line("doctor", "system", "--json", settings=settings).stdout)
    assert [(one["code"], one["severity"]) for one in facts["problems"]] == [("folder", "error")]
    assert facts["cpus"] == Machine.look().cpus and facts["versions"]["catdog"] == __version__


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_run_without_the_gpu_that_the_machine_demands_is_a_device_error(finished: Finished, tmp_path: Path) -> None:
    TrainConfig.read(finished.run).write(tmp_path / "run")
    with pytest.raises(NoDevice, match="CATDOG_DEVICE=cuda") as caught:
        list(phases.run(tmp_path / "run", finished.settings.model_copy(update={"device": "cuda"})))
    failed = phases.failure(caught.value)
    assert failed.code == "device_error" and EXIT_CODES["device_error"] == 76 and "CATDOG_CPU_FALLBACK=1" in (failed.remedy or "")


def test_predict_leaves_no_data_folder_behind(settings: Settings) -> None:
    assert command_line("predict", "x.jpg", settings=settings).returncode == 2
    assert not settings.root.exists()


def small_folder(folder: Path, **more: bytes) -> Path:
    return lay_out(folder, pets(6) | {name.replace("_", "."): data for name, data in more.items()})


def test_an_import_prints_the_id_alone_and_says_beside_it_what_was_left_out(settings: Settings, tmp_path: Path) -> None:
    source = small_folder(tmp_path / "photos", notes_txt=b"", cat_8_heic=b"x", dog_8_png=b"broken")
    (source / "cat.9\x1b[31m.png").write_bytes(pets()["cat.2.png"])
    done = command_line("data", "import", str(source), settings=settings)
    assert done.returncode == 0 and re.fullmatch(r"ds_[0-9a-f]{32}\n", done.stdout)
    left = sorted(line for line in done.stderr.splitlines() if line.startswith("left out: "))
    assert len(left) == 4 and left[1] == "left out: cat.9\\x1b[31m.png: the same file as cat.2.png" and "\x1b" not in done.stderr
    assert [line.split(": ")[1] for line in left] == ["cat.8.heic", "cat.9\\x1b[31m.png", "dog.8.png", "notes.txt"]


def test_much_that_was_left_out_is_not_all_listed(settings: Settings, tmp_path: Path) -> None:
    source = small_folder(tmp_path / "photos", **{f"notes{number}_txt": b"" for number in range(REPORTED_NAMES + 3)})
    done = command_line("data", "import", str(source), settings=settings)
    lines = done.stderr.splitlines()
    assert len(lines) == REPORTED_NAMES + 1 and lines[-1] == (
        f"left out: 3 more; `catdog data report {done.stdout.strip()}` lists them"
    )


@pytest.mark.parametrize("options", [["--labels", "cat,dog"], ["--rule", "filename"], ["--skip-unlabelled"]])
def test_options_about_labels_that_would_be_ignored_are_refused(settings: Settings, tmp_path: Path, options: list[str]) -> None:
    source = str(small_folder(tmp_path / "photos"))
    imported = command_line("data", "import", source, *options, settings=settings)
    assert imported.returncode == 0, imported.stderr
    page, dataset = ["--html", str(tmp_path / "page.html")], imported.stdout.strip()
    for verb, known, more in (("import", dataset, []), ("report", dataset, page), ("import", "oxford-pets", [])):
        done = command_line("data", verb, known, *options, *more, settings=settings)
        assert done.returncode == 2 and "no options about labels" in done.stderr and known in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("verb", "option", "name"), [
    ("report", "--html", "nowhere/report.html"), ("report", "--html", "."), ("sheet", "--out", "nowhere/sheet.png"),
    ("sheet", "--out", "sheet.txt"), ("sheet", "--out", "sheet"),
])
def test_the_place_of_the_output_is_looked_for_first(settings: Settings, tmp_path: Path, verb: str, option: str, name: str) -> None:
    done = command_line("data", verb, "no-such-folder", option, str(tmp_path / name), settings=settings)
    expected = "picture" if name.startswith("sheet") else "file in a folder"
    assert done.returncode == 2 and done.stderr.startswith(f"error: Expected a {expected}")
    assert not settings.root.exists()


def test_a_report_is_on_standard_output_and_says_ready_or_refused_by_its_exit_code(settings: Settings, tmp_path: Path) -> None:
    source = small_folder(tmp_path / "photos", catdog_png=b"x")
    (source / "dog.9\x1b[31m.txt").write_bytes(b"")
    where = ["data", "report", str(source), "--html", str(tmp_path / "page.html")]
    done = command_line(*where, "--json", settings=settings)
    summary = json.loads(done.stdout)
    assert done.returncode == 3 and done.stderr == "" and summary["verdict"] == "refused"
    assert summary["findings"][0]["severity"] == "error" and summary["findings"][0]["names"] == ["catdog.png"]
    assert (tmp_path / "page.html").read_bytes().startswith(b"<!doctype html>")
    done = command_line(*where, "--skip-unlabelled", settings=settings)
    assert done.returncode == 0 and done.stdout.splitlines()[-2] == "12 pictures, 2 files left out: ready"
    assert "    dog.9\\x1b[31m.txt" in done.stdout and "\x1b" not in done.stdout and "    catdog.png" in done.stdout
    assert not settings.root.exists()


def test_a_hostile_name_in_an_error_is_shown_harmlessly(settings: Settings, tmp_path: Path) -> None:
    source = small_folder(tmp_path / "photos")
    (source / "bird\x1b[31m\n.png").write_bytes(b"x")
    done = command_line("data", "import", str(source), settings=settings)
    assert done.returncode == 2 and "\x1b" not in done.stderr and "  bird\\x1b[31m\\n.png\n" in done.stderr


@pytest.fixture
def wired(tmp_path: Path) -> Path:
    """A file with the seed's bug, and other networks."""
    path = tmp_path / "networks.py"
    path.write_text(SOURCE + "print('imported')\n")
    return path


def test_the_doctor_examines_anyones_network(finished: Finished, settings: Settings, wired: Path) -> None:
    settings.make_folders()
    options = ("--image-size", "32", "--data", str(finished.pictures))
    done = command_line("doctor", *options, "--model", f"{wired}:Wired", settings=settings)
    assert done.returncode == EXIT_CODES["doctor"] == 3, done.stderr
    assert "ERROR   M01" in done.stdout and "networks.py:" in done.stdout and "x1_up" in done.stdout
    assert "imported" in done.stderr and "imported" not in done.stdout
    done = command_line("doctor", *options, "--model", f"{wired}:Whole", "--json", settings=settings)
    assert done.returncode == 0 and json.loads(done.stdout)["healthy"], done.stdout
    wrong = command_line("doctor", *options, settings=settings)
    assert wrong.returncode == 2 and "--model" in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_doctor_reads_a_run_without_torch(finished: Finished, tmp_path: Path) -> None:
    shutil.copy(finished.run / "config.json", tmp_path)
    lines = [
        {"kind": "epoch", "epoch": epoch, "epochs": 4, "train_loss": 0.7 * epoch**2, "val_loss": 0.7} for epoch in range(1, 5)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = command_line("doctor", "--run", str(tmp_path), settings=finished.settings)
    assert done.returncode == 0 and "WARNING C01 The learning rate is too high" in done.stdout, done.stderr
    done = command_line("doctor", "--run", str(finished.run), "--json", settings=finished.settings)
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["healthy"] and "M01" in answer["passed"] and isinstance(answer["curve"], list)
    missing = command_line("doctor", "--run", str(tmp_path / "none"), settings=finished.settings)
    assert missing.returncode == 2 and "config.json" in missing.stderr


def test_the_models_of_other_packages_are_listed(settings: Settings, tmp_path: Path) -> None:
    done = command_line("models", "list", settings=settings, extra={"PYTHONPATH": str(bring(tmp_path)), "COLUMNS": "200"})
    assert done.returncode == 0 and re.search(r"wired .* of brought-networks", done.stdout), done.stdout
