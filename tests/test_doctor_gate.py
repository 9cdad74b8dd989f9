"""The gate: a run that must not be ends with the reason, any other is left as it was; guards, attendance, the file of the best epoch."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from catdog import device, loop, run
from catdog.checkpoints import Checkpoint
from catdog.config import TrainConfig
from catdog.doctor import examine, gate, patients
from catdog.doctor.examination import examination
from catdog.doctor.findings import Culprit, Finding, Report
from catdog.doctor.patient import Patient
from catdog.doctor.training import selection
from catdog.doctor.training.attendance import Attendance
from catdog.doctor.training.guards import EVERY, LOOKS, Guards, Updates
from catdog.errors import Unhealthy
from catdog.files import sha256_of
from catdog.metrics import Answers, Measures
from catdog.progress import MAX_LINE_BYTES, Progress
from catdog.ranks import ALONE
from catdog.run import Prepared
from catdog.settings import Settings
from tests.brought import bring
from tests.living import FAST_JOB, Finished

pytestmark = pytest.mark.usefixtures("one_thread")

Prepare = Callable[..., Prepared]


@pytest.fixture
def settings(tmp_path: Path, finished: Finished) -> Settings:
    """Another machine with the data set of the finished run."""
    made = Settings.load(data_dir=tmp_path / "data")
    made.make_folders()
    dataset = TrainConfig.read(finished.run).dataset
    shutil.copytree(finished.settings.datasets / dataset, made.datasets / dataset)
    return made


@pytest.fixture
def prepare(tmp_path: Path, finished: Finished, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepare a run, also of a network that another package brings along."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(bring(tmp_path / "site")))

    def prepared(**fields: Any) -> Prepared:
        dataset = TrainConfig.read(finished.run).dataset
        TrainConfig.parse({"dataset": dataset, **FAST_JOB, "epochs": 1, "n_train": 16, **fields}).write(tmp_path / "run")
        return run.prepare(tmp_path / "run", settings)

    return prepared


def state_of(prepared: Prepared) -> list[Any]:
    """All that a run has when it is prepared."""
    modules = [(name, module.training) for name, module in prepared.classifier.named_modules()]
    required = [(name, parameter.requires_grad, parameter.grad) for name, parameter in prepared.classifier.named_parameters()]
    return [
        modules, required, *({name: one.tolist() for name, one in values.items()} for values in (
            prepared.classifier.state_dict(), device.random_state(),
        )),
    ]


@pytest.mark.parametrize("fields", [{}, {"model": "whole"}, {"trainable": ["head.*", "backbone.features.12.*"], "mixup": 0.2}])
def test_a_healthy_run_is_left_as_it_was_and_looked_at_once(prepare: Prepare, fields: dict[str, Any]) -> None:
    prepared = prepare(**fields)
    before = state_of(prepared)
    said = list(gate.examining(prepared))
    assert state_of(prepared) == before, "its weights, its flags, its generators"
    report = Report.read(prepared.folder)
    assert report is not None and report.is_healthy and {"M01", "M02", "M03"} <= set(report.passed), report
    assert said[-1].result is not None and said[-1].result["doctor"]["healthy"] is True
    assert not [one for one in report.findings if "own failure" in one.message], report
    assert list(gate.examining(prepared)) == [], "an earlier attempt has done it"


def test_what_guards_have_said_is_no_examination(prepare: Prepare) -> None:
    prepared = prepare()
    gate.amend(prepared.folder, Report(passed=("T01", "T05")))
    list(gate.examining(prepared))
    report = Report.read(prepared.folder)
    assert report is not None and report.codes >= gate.PREFLIGHT and "T05" in report.passed


def test_parts_that_are_meant_to_do_nothing_are_not_accused(prepare: Prepare) -> None:
    prepared = prepare(model="wired", unused_ok=["backbone.up", "backbone.down"])
    list(gate.examining(prepared))
    report = Report.read(prepared.folder)
    assert report is not None and report.is_healthy, report


def test_a_frozen_backbone_has_its_head_examined_on_its_features(prepare: Prepare) -> None:
    prepared = prepare(model="efficientnet_lite0", weights="imagenet", image_size=64)
    assert prepared.frozen
    patient = patients.learning(prepared)
    assert patient.batch[0].shape == (8, 1280) and isinstance(patient.model, nn.Linear)
    before = patient.model.weight.clone()
    assert torch.equal(before, prepared.classifier.head.weight), "a copy of it"  # type: ignore[arg-type]
    patient.train_step()
    assert not torch.equal(before, patient.model.weight) and torch.equal(before, prepared.classifier.head.weight)  # type: ignore[arg-type]


def test_step_and_evaluation_of_the_patient_are_the_loops_own(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = patients.learning(prepare(balance="weighted", label_smoothing=0.1))
    called = [Mock(wraps=getattr(loop, name)) for name in ("train_step", "evaluate")]
    monkeypatch.setattr(loop, "train_step", called[0])
    monkeypatch.setattr(loop, "evaluate", called[1])
    assert patient.evaluate is not None and patient.loss is not None and patient.schedule is not None
    patient.train_step()
    inputs, target = patient.batch
    measured = patient.evaluate(patient.model, [(inputs[:5], target[:5]), (inputs[5:], target[5:])], patient.loss)
    assert [one.call_count for one in called] == [1, 1]
    patient.model.eval()
    with torch.no_grad():
        each = [patient.loss(patient.model(inputs[place : place + 1]), target[place : place + 1]).item() for place in range(8)]
    assert measured["loss"] == pytest.approx(sum(each) / 8, rel=1e-4)
    assert len(patient.schedule()) == 2 and patient.schedule()[0] == pytest.approx(3e-4)


def test_a_network_with_a_dead_branch_is_refused_with_its_culprit(prepare: Prepare) -> None:
    prepared = prepare(model="wired")
    said: list[Progress] = []
    with pytest.raises(Unhealthy, match="M01") as caught:
        said.extend(gate.examining(prepared))
    report = Report.read(prepared.folder)
    assert report is not None
    (error,) = report.errors
    assert error.code == "M01" and "brought_networks.py" in str(error) and "x1_up" in str(error)
    failed = run.failure(caught.value)
    assert failed.code == "doctor" and len(failed.to_json()) < MAX_LINE_BYTES and failed.remedy == error.remedy
    with pytest.raises(Unhealthy):  # what has been mended meanwhile is looked at anew
        list(gate.examining(prepared))


def test_what_was_found_is_said_in_lines_before_the_run_is_refused(prepare: Prepare, settings: Settings) -> None:
    said: list[Progress] = []
    with pytest.raises(Unhealthy):
        for progress in run.run(prepare(model="wired").folder, settings):
            said.append(progress)
    found, *_ = [one for one in said if one.kind == "finding"]
    assert found.phase == "examining" and found.result is not None and found.result["finding"]["code"] == "M01"
    assert said[-1].result is not None and said[-1].result["doctor"]["errors"] == 1
    assert not any(one.phase == "features" for one in said)


def test_with_warn_it_is_said_and_goes_on_and_with_off_nobody_looks(prepare: Prepare) -> None:
    warned = prepare(model="wired", doctor="warn")
    said = [one.kind for one in gate.examining(warned)]
    assert said[0] == "finding" and said[-1] == "phase"
    assert list(gate.examining(warned)) == []
    (warned.folder / "doctor.json").unlink()
    off = prepare(model="wired", doctor="off")
    assert list(gate.examining(off)) == []
    report = Report.read(off.folder)
    assert report is not None and set(report.not_run.values()) == {"doctor=off"} and not report.findings


def test_the_doctors_own_failure_is_a_warning_and_the_run_goes_on(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Prepared) -> Patient:
        raise RuntimeError("the doctor is ill")

    monkeypatch.setattr(patients, "structure", fail)
    prepared = prepare()
    findings = [one for one in gate.examining(prepared) if one.kind == "finding"]
    assert findings and "the doctor is ill" in str(findings[0].result) and (findings[0].message or "").startswith("warning")
    report = Report.read(prepared.folder)
    assert report is not None and report.not_run["M01"] == "the doctor's own failure"


def test_what_the_budget_does_not_reach_is_listed(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BUDGET", 0.0)
    report = gate.look(prepare())
    assert not report.passed and set(report.not_run.values()) == {"budget"} and "M01" in report.not_run


def test_a_finding_of_any_length_is_one_line() -> None:
    long = Finding("M01", "error", "m" * 90_000, Culprit("c" * 90_000), tuple("e" * 5000 for _ in range(90)), "r" * 90_000)
    (line,) = gate.said(Report((long,)), phase="examining")
    assert len(line.to_json()) < MAX_LINE_BYTES
    assert line.result is not None and Finding.from_dict(line.result["finding"]).culprit.what.startswith("cc")


def test_a_later_report_takes_the_place_of_what_was_said_of_the_same(tmp_path: Path) -> None:
    finding = Finding("T05", "error", "Wrong.", Culprit("a file"))
    gate.amend(tmp_path, Report((finding,), passed=("M01",), not_run={"S01": "budget"}, seconds=1))
    whole = gate.amend(tmp_path, Report(passed=("T05", "S01"), seconds=2))
    assert whole == Report.read(tmp_path) == Report(passed=("M01", "T05", "S01"), seconds=3)


def test_a_picture_is_called_as_its_owner_calls_it(prepare: Prepare) -> None:
    prepared = prepare()
    record = prepared.records["train"][0]
    path = prepared.dataset.path(record)
    report = Report((Finding("D01", "warning", f"{path} is broken.", Culprit(str(path)), (f"2 files: {path}, {path}",)),))
    (finding,) = gate._named(report, prepared).findings
    assert finding.culprit.what == record.name and finding.message == f"{record.name} is broken."
    assert finding.evidence == (f"2 files: {record.name}, {record.name}",)


def test_the_data_organ_shows_the_pictures_of_the_run(prepare: Prepare) -> None:
    prepared = prepare(augment="light")
    data = patients.data(prepared, "train", "val")
    train, val = data.splits["train"], data.splits["val"]
    assert len(train.items) == len(train.paths) == 16 and set(data.splits) == {"train", "val"}
    (one, target), (again, _) = train.items[0], train.items[0]
    assert one.shape == (32, 32, 3) and not torch.equal(one, again), "another look"
    assert torch.equal(val.items[0][0], val.items[0][0])
    assert data.prepare is not None and torch.equal(val.items[0][0], data.prepare(val.paths[0].read_bytes()))
    assert data.labels_in(train.paths[0]) == [data.labels[target]]
    assert data.loader is not None
    batches = list(data.loader("train", 0))
    assert sorted(torch.cat([target for _, target in batches]).tolist()) == [0] * 8 + [1] * 8


def test_a_sample_is_fair() -> None:
    class Record:
        def __init__(self, number: int) -> None:
            self.sha256, self.label = f"{number:064x}", "rare" if number < 3 else "cat" if number < 2000 else "dog"

    records: Any = [Record(number) for number in range(6000)]
    labels = [record.label for record in patients.sample(records, seed=0)]
    assert len(labels) <= patients.SAMPLE + 3 and labels.count("rare") == 2
    assert labels.count("dog") == pytest.approx(2 * labels.count("cat"), rel=0.02)


def test_the_package_carries_the_report(finished: Finished) -> None:
    report = Report.read(finished.run / "package")
    assert report is not None and report == Report.read(finished.run) and "T05" in report.passed
    files = json.loads((finished.run / "package" / "package.json").read_text())["files"]
    assert files["doctor.json"] == sha256_of(finished.run / "package" / "doctor.json")


def test_a_package_that_answers_otherwise_is_none(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An examination of the organ `serving` that finds something."""

    @examination("S01", "parity", catches="", needs=("serving", "data"))
    def parity(patient: Patient) -> Iterator[Finding]:
        assert patient.serving is not None and patient.data is not None and patient.serving.logits is not None
        picture = patient.data.splits["val"].paths[0].read_bytes()
        prepared = patient.serving.prepare(picture)
        with torch.no_grad():
            own = patient.model(prepared[None])
        torch.testing.assert_close(patient.serving.logits(prepared[None]), own, rtol=1e-3, atol=1e-4)
        answer = patient.serving.probabilities([picture])
        torch.testing.assert_close(answer, own.softmax(1), rtol=1e-3, atol=1e-4, check_dtype=False)
        yield Finding("S01", "error", "Serving does it otherwise.", Culprit("package"))

    folder = Path(shutil.copytree(finished.run, tmp_path / "run"))
    shutil.rmtree(folder / "package")
    monkeypatch.setattr(gate, "EXAMINATIONS", (parity,))
    said = []
    with pytest.raises(Unhealthy, match="Serving does it otherwise"):
        for progress in run.run(folder, finished.settings):
            said.append(progress)
    assert [one.phase for one in said if one.kind == "finding"] == ["packaging"]
    assert not (folder / "package").exists()
    report = Report.read(folder)
    assert report is not None and [one.code for one in report.errors] == ["S01"]


def measures(loss: float) -> Measures:
    answers = Answers(torch.full((4,), loss, dtype=torch.float64), torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]))
    return Measures.of(answers)


def test_the_file_of_the_best_epoch_must_repeat_what_that_epoch_said() -> None:
    config = TrainConfig.parse({"dataset": "ds_" + "0" * 32})
    epochs = [{"epoch": number, "val_loss": loss, "val_accuracy": 0.5} for number, loss in enumerate((0.6, 0.4, 0.5), 1)]
    assert list(selection.repeats(epochs, config, best_epoch=2, measured=measures(0.4001))) == []
    (wrong,) = selection.repeats(epochs, config, best_epoch=2, measured=measures(0.5))
    assert wrong.severity == "error" and "such a loss had epoch 3" in wrong.evidence
    (late,) = selection.repeats(epochs, config, best_epoch=3, measured=measures(0.5))
    assert "epoch 2 was better" in late.message
    assert list(selection.repeats([], config, best_epoch=3, measured=measures(0.5))) == [], "nothing is known"


def test_a_run_whose_best_weights_are_others_ends_before_the_test_split(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(finished.run, tmp_path / "run"))
    (folder / "metrics.json").unlink()
    original = Checkpoint.weights
    monkeypatch.setattr(Checkpoint, "weights", lambda self: {name: 3 * one for name, one in original(self).items()})
    with pytest.raises(Unhealthy, match="T05"):
        list(run.run(folder, finished.settings))
    assert not (folder / "metrics.json").exists()


def test_a_loader_that_stands_still_ends_the_run(prepare: Prepare, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepare(batch_size=4).folder
    monkeypatch.setattr(loop, "order_of", lambda split, *_, **__: [0, 1, 2, 3] * (len(split) // 4))
    monkeypatch.setattr(gate, "EXAMINATIONS", ())
    with pytest.raises(Unhealthy, match="T04: 3 batches of train in a row were the same one"):
        list(run.run(folder, settings))


def test_the_ledger_knows_an_epoch_that_leaves_pictures_out() -> None:
    attendance = Attendance()
    for batch in ([0, 1], [2, 3]):
        attendance.note("train", batch)
    assert list(attendance.close({"train": 4})) == []
    attendance.note("train", [0])
    (finding,) = attendance.close({"train": 4})
    assert finding.severity == "error" and "draws 1 pictures of train, which has 4" in finding.message
    for _ in range(3):
        attendance.note("val", [0, 1, 2])
        assert list(attendance.close({"val": 3})) == [], "a split of one batch is the same in every epoch"


def looked(network: nn.Module, change: Callable[[nn.Linear, int], object], *, looks: int, rate: float = 1e-3) -> list[Finding]:
    """What Updates says of steps that `change` makes of the one layer."""
    updates = Updates(network, TrainConfig.parse({"dataset": "ds_" + "0" * 32, "learning_rate": 1e-3}))
    layer = next(module for module in network.modules() if isinstance(module, nn.Linear))
    found = []
    for step in range(1, EVERY * looks + 2):
        with torch.no_grad():
            change(layer, step)
        layer.weight.grad = torch.ones_like(layer.weight)
        found += list(updates.look(step, rate=rate))
    return found


def test_updates_that_stop_or_replace_everything_or_leap_are_said() -> None:
    def small(layer: nn.Linear, step: int) -> None:
        layer.weight.mul_(1 + 1e-3 * (-1) ** step)

    def leaping(layer: nn.Linear, step: int) -> None:
        small(layer, step)
        if step == EVERY * 7 + 1:
            layer.weight.mul_(2)

    assert looked(nn.Linear(9, 9), small, looks=9) == []
    assert looked(nn.Linear(9, 9), lambda *_: None, looks=LOOKS - 1) == []
    still = looked(nn.Sequential(nn.Linear(9, 9)), lambda *_: None, looks=LOOKS)
    assert [one.culprit.what for one in still] == ["0"] and "does not move" in still[0].message and still[0].severity == "warning"
    assert looked(nn.Linear(9, 9), lambda *_: None, looks=9, rate=1e-6) == [], "at the end of a cosine nothing has to move"
    wild = looked(nn.Linear(9, 9), lambda layer, _: nn.init.normal_(layer.weight), looks=LOOKS)
    assert wild and "replaces" in wild[0].message
    leap = looked(nn.Linear(9, 9), leaping, looks=9)
    assert len(leap) == 1 and "times as long as usual" in leap[0].message


def test_a_code_is_said_once_and_an_epoch_begun_by_another_attempt_is_not_counted() -> None:
    config = TrainConfig.parse({"dataset": "ds_" + "0" * 32, "epochs": 4})
    guards = Guards(nn.Linear(2, 2), config, Attendance(), declared={"train": 8}, is_resumed=True)
    said = [
        Progress("epoch", epoch=number, epochs=4, train_eval_loss=0.7, val_loss=0.7, val_recall=[1.0, 0.0]) for number in range(1, 5)
    ]
    found = [[one.code for one in guards.of(one_said)] for one_said in said]
    assert found == [[], ["T04"], ["T03"], []]


def test_a_rank_counts_its_own_shard(prepare: Prepare) -> None:
    prepared = prepare()
    guards = run._guards(prepared, replace(ALONE, rank=0, size=2))
    assert guards is not None and guards._declared["train"] == 8
    assert run._guards(prepared, replace(ALONE, rank=1, size=2)) is None


def test_a_matrix_with_more_numbers_than_float32_can_count_has_places_of_its_own() -> None:
    layer = nn.Linear(4097, 4096, bias=False)  # 2^24 and 4096 numbers
    updates = Updates(layer, TrainConfig.parse({"dataset": "ds_" + "0" * 32}))
    updates._find_places()
    places = updates._places[0].tolist()
    assert places[0] == 0 and places[-1] == layer.weight.numel() - 1 and len(set(places)) == 64


def test_a_guard_that_fails_itself_is_a_warning_and_the_last_word_of_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig.parse({"dataset": "ds_" + "0" * 32})
    guards = Guards(nn.Linear(2, 2), config, Attendance(), declared={}, is_resumed=False)

    def broken(*_: object) -> Iterator[Finding]:
        raise IndexError("no such place")

    monkeypatch.setattr(guards, "_learnt", broken)
    said = [[(one.code, one.severity) for one in guards.of(Progress("epoch", epoch=number))] for number in (1, 2)]
    assert said == [[("S00", "warning")], []]


def test_a_split_smaller_than_the_ranks_is_measured_by_each(prepare: Prepare) -> None:
    prepared = prepare()
    prepared.records["val"] = prepared.records["val"][:3]
    guards = run._guards(prepared, replace(ALONE, rank=0, size=4))
    assert guards is not None and guards._declared["val"] == 3


def test_two_findings_of_one_examination_stand_beside_each_other(prepare: Prepare) -> None:
    prepared = prepare(doctor="warn")
    for place in ("layer1", "layer2"):
        list(gate.verdict([Finding("T02", "warning", "It does not move.", Culprit(place))], prepared, phase="training"))
    report = Report.read(prepared.folder)
    assert report is not None and [one.culprit.what for one in report.findings] == ["layer1", "layer2"]


def test_a_report_that_is_damaged_is_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"findings": [{}]}'):
        (tmp_path / "doctor.json").write_text(text)
        assert Report.read(tmp_path) is None


def test_want_of_memory_is_not_held_against_a_network() -> None:
    class Hungry(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {len(images)} images")

    network = Hungry(4, 2)
    report = examine(network, (torch.rand(8, 4), torch.arange(8) % 2), nn.CrossEntropyLoss(), torch.optim.SGD(network.parameters()))
    assert [(one.code, one.severity) for one in report.findings] == [("S00", "warning")] and report.is_healthy


@pytest.mark.parametrize("batch", [
    (torch.rand(12, 4), torch.zeros(12, 2, 2, dtype=torch.int64)), ({"images": torch.rand(12, 4)}, torch.arange(12) % 2),
    (torch.rand(12, 4), [0, 1] * 6),
])
def test_a_batch_that_nobody_has_thought_of_is_a_finding(batch: Any) -> None:
    network = nn.Linear(4, 2)
    report = examine(network, batch, nn.CrossEntropyLoss(), torch.optim.SGD(network.parameters()))
    assert len(report.findings) == 1, report
