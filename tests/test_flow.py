"""The flow, through real processes: upload -> job -> prediction, and what must hold on the way."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from catdog import sources
from catdog.database import create_engine
from catdog.datasets import Dataset
from catdog.images import Preprocess, decode
from catdog.jobs import JobStore
from catdog.loaders import Pictures
from catdog.registry import Registry
from tests.brought import bring
from tests.living import FAST_JOB, LiveStack, command_line, until
from tests.rivals import GREENISH, make_rival, pictures_of_red_and_green
from tests.serving import publish_digest


@pytest.fixture(scope="module")
def dataset(stack: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return stack.drawn(tmp_path_factory.mktemp("drawn") / "pictures", count=60, size=96)


@pytest.fixture(scope="module")
def job(stack: LiveStack, dataset: dict[str, Any]) -> dict[str, Any]:
    """The default job on drawn pictures, from POST to its end; champion, whatever was published on this stack before."""
    ended = stack.wait_for_end(stack.post_job(dataset))
    assert ended["state"] == "succeeded", ended
    stack.client.put("/v1/models/aliases/champion", json={"version": ended["model"], "force": True}).raise_for_status()
    until(lambda: stack.client.get("/health/ready").json()["models"].get("champion") == ended["model"], "the model to be served")
    return ended


def test_an_upload_becomes_a_data_set(dataset: dict[str, Any]) -> None:
    assert dataset["state"] == "ready"
    assert dataset["labels"] == ["cat", "dog"]
    assert sum(sum(labels.values()) for labels in dataset["counts"].values()) == 60


def test_the_job_says_how_it_went(job: dict[str, Any]) -> None:
    assert job["device"]["name"] in ("cpu", "cuda") and job["device"]["reason"]
    assert job["attempt"] == 1 and job["error"] is None
    assert job["result"]["metrics"]["test"]["accuracy"] >= 0.7
    assert job["config"]["model"] == "efficientnet_lite0" and job["config"]["trainable"] == "head"


def test_the_events_replay_what_happened_and_end(stack: LiveStack, job: dict[str, Any]) -> None:
    lines = stack.client.get(f"/v1/jobs/{job['id']}/events").text
    for phase in ("preparing", "features", "training", "testing", "packaging", "publishing"):
        assert f'"{phase}"' in lines, phase
    ids = [int(line.removeprefix("id: ")) for line in lines.splitlines() if line.startswith("id: ")]
    assert ids == sorted(set(ids))
    later = stack.client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": str(ids[4])}).text
    assert [int(line.removeprefix("id: ")) for line in later.splitlines() if line.startswith("id: ")] == ids[5:]


def test_pictures_it_never_saw_are_answered(stack: LiveStack, job: dict[str, Any], tmp_path: Path) -> None:
    sources.draw(tmp_path, count=10, size=96, seed=99)
    right = 0
    for path in sorted(tmp_path.iterdir()):
        answer = stack.client.post("/v1/predict", content=path.read_bytes(), headers={"Content-Type": "image/jpeg"}).json()
        assert answer["model"]["version"] == job["model"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert (answer["label"] is None) == (answer["decision"] == "abstain") == (answer["reason"] is not None)
        right += path.name.startswith(max(answer["probabilities"], key=answer["probabilities"].__getitem__))
    assert right >= 7


def test_served_pixels_and_probabilities_are_those_of_validation(stack: LiveStack, dataset: dict[str, Any], job: dict[str, Any]) -> None:
    """The file through the validation loader, and the same file through POST /v1/predict; and 8 bits answer as the network does."""
    import torch

    from catdog import loaders, loop, run
    from catdog.calibration import softmax
    from catdog.inference import Predictor
    from catdog.quantisation import LOST_PICTURES

    settings = stack.settings
    prepared = run.prepare(settings.runs / job["id"], settings)
    best = loop.best(prepared.folder / "checkpoints")
    prepared.network.load_state_dict(best.weights())
    records = prepared.dataset.split("val")
    split = loaders.pixels(Pictures(Dataset.open(settings.datasets / dataset["id"]), records, prepared.preprocess), threads=1)
    trained_pixels = split.fetch(range(len(records)), 0)
    digest = stack.client.get(f"/v1/models/{job['model']}").json()["digest"]
    served = Predictor.load(settings.models / digest)
    expected = softmax(served.logits(trained_pixels.numpy()), served.calibration.temperature)
    with torch.no_grad():
        trained = prepared.classifier.eval()(trained_pixels).numpy()
    assert (trained.argmax(axis=1) != expected.argmax(axis=1)).sum() <= LOST_PICTURES

    for position, record in enumerate(records):
        data = prepared.dataset.path(record).read_bytes()
        assert np.array_equal(served.preprocess.pixels(decode(data)), trained_pixels[position].numpy()), record.name
        answer = stack.client.post("/v1/predict", files={"file": (record.name, data)}).json()
        received = [answer["probabilities"][label] for label in dataset["labels"]]
        assert np.abs(np.array(received) - expected[position]).max() < 1e-4, record.name


def test_the_decoders_of_the_service_give_the_pixels_of_the_library(stack: LiveStack) -> None:
    """Across the process border: what a decoder returns is what Preprocess gives here."""
    import asyncio

    from service.decoding import Decoders

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(buffer, "JPEG")
    preprocess = Preprocess(48)

    async def decoded() -> Any:
        decoders = Decoders(stack.settings)
        decoders.start()
        try:
            return await decoders.decode(buffer.getvalue(), preprocess)
        finally:
            decoders.close()

    assert np.array_equal(asyncio.run(decoded()), preprocess.pixels(decode(buffer.getvalue())))


def test_while_a_job_trains_no_torch_is_elsewhere_and_predictions_are_answered(
    stack: LiveStack, dataset: dict[str, Any], job: dict[str, Any], tmp_path: Path,
) -> None:
    running = stack.post_job(dataset, **FAST_JOB, publish={"promote": "never"})
    stack.wait_for_training(running)
    run_process = stack.run_process()
    assert loads_torch(run_process)
    others = [p for p in psutil.Process(stack.up.pid).children(recursive=True) if p != run_process and run_process not in p.parents()]
    checked = [p for p in others if p.is_running() and not loads_torch(p)]
    names = [" ".join(p.cmdline()) for p in checked]
    assert any("-m service" in name for name in names) and any("-m worker" in name for name in names), names
    assert len(checked) == len(others), [p.cmdline() for p in others if p not in checked]

    sources.draw(tmp_path, count=2, size=96, seed=5)
    picture = next(iter(tmp_path.iterdir())).read_bytes()
    while stack.job(running)["state"] == "running":
        response = stack.client.post("/v1/predict", content=picture, headers={"Content-Type": "image/jpeg"})
        assert response.status_code == 200 and response.json()["model"]["version"] == job["model"]
        time.sleep(0.2)
    ended = stack.wait_for_end(running)
    assert ended["state"] == "succeeded", ended
    assert stack.client.get("/health/ready").json()["models"]["champion"] == job["model"], "promote: never moved the alias"


def loads_torch(process: psutil.Process) -> bool:
    return any("libtorch" in mapped.path for mapped in process.memory_maps())


def test_a_dry_run_shows_what_a_training_would_see(stack: LiveStack, dataset: dict[str, Any]) -> None:
    config = {"dataset": dataset["id"], **FAST_JOB, "n_train": 10}
    accepted = stack.client.post("/v1/jobs?dry_run=true", json=config).json()
    job = stack.wait_for_end(accepted["id"])
    assert (job["kind"], job["state"], job["model"], job["phase"]) == ("examine", "succeeded", None, "examining")
    assert job["result"]["pictures"]["images"]["train"] == 10
    assert job["result"]["doctor"]["healthy"] and job["result"]["doctor"]["passed"] >= 3
    taken = job["result"]["estimate"]
    assert taken["steps_per_epoch"] == 2 and taken["seconds_per_epoch"] > taken["seconds_per_step"] > 0
    assert taken["peak_memory_bytes"] > 1e8 and 1e6 < taken["disk_bytes"] < taken["free_disk_bytes"]
    assert stack.client.get(job["links"]["doctor"]).json()["healthy"]
    assert not (stack.settings.runs / job["id"] / "checkpoints").exists()
    link, = job["links"]["artifacts"]
    sheet = Image.open(io.BytesIO(stack.client.get(link).content))
    assert sheet.format == "PNG" and sheet.width > 8 * 32 and len(sheet.getcolors(sheet.width * sheet.height) or ()) > 100


def test_a_job_with_a_dead_branch_is_refused_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed's bug, in a network that an installed package brings along."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(bring(tmp_path / "site")))
    with LiveStack(tmp_path / "stack") as stack:
        dataset = stack.drawn(tmp_path / "pictures")
        fields = {"model": "wired", "image_size": 32, "epochs": 1}
        job = stack.wait_for_end(stack.post_job(dataset, **fields))
        assert (job["state"], job["phase"], job["error"]["code"], job["model"]) == ("failed", "examining", "doctor", None), job
        assert "M01" in job["error"]["message"] and job["error"]["remedy"]
        (finding,) = [one for one in stack.client.get(job["links"]["doctor"]).json()["findings"] if one["severity"] == "error"]
        assert "brought_networks.py" in json.dumps(finding) and "x1_up" in json.dumps(finding) and finding["culprit"]["parameters"] > 0.5
        events = stack.client.get(job["links"]["events"]).text
        assert "event: finding" in events and "event: failed" in events and '"training"' not in events
        whole = stack.wait_for_end(stack.post_job(dataset, **fields | {"model": "whole"}))
        assert whole["state"] == "succeeded" and whole["result"]["doctor"]["healthy"], whole


def test_a_running_job_is_cancelled_and_leaves_no_process(stack: LiveStack, dataset: dict[str, Any]) -> None:
    job_id = stack.post_job(dataset, **FAST_JOB | {"epochs": 1000})
    stack.wait_for_training(job_id)
    run_process = stack.run_process()
    assert stack.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    ended = stack.wait_for_end(job_id)
    assert ended["state"] == "cancelled" and ended["model"] is None
    run_process.wait(timeout=30)
    assert stack.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    assert any((stack.settings.runs / job_id / "checkpoints").glob("*/step-*/MANIFEST.json")), "a cancelled run keeps its checkpoint"


def test_a_job_that_was_cancelled_and_resumed_ends_as_one_that_was_let_alone(stack: LiveStack, dataset: dict[str, Any]) -> None:
    fields = FAST_JOB | {"device": "cpu", "publish": {"alias": "resumed"}}
    old = stack.post_job(dataset, **fields)
    stack.wait_for_training(old)
    stack.client.post(f"/v1/jobs/{old}/cancel").raise_for_status()
    assert stack.wait_for_end(old)["state"] == "cancelled"
    new = stack.client.post(f"/v1/jobs/{old}/resume").json()
    assert new["resumed_from"] == old and new["config"] == stack.job(old)["config"]
    alone = stack.client.post(f"/v1/jobs/{old}/clone", json={"save_minutes": 2}).json()
    ended = [stack.wait_for_end(job["id"]) for job in (new, alone)]
    assert [job["state"] for job in ended] == ["succeeded", "succeeded"], ended
    assert alone["changed"] == {"save_minutes": [1.0, 2.0]}
    promotions = [job["result"]["promotion"] for job in ended]
    assert [said["promoted"] for said in promotions] == [True, False], "nine pictures do not say which of two is better"
    assert (promotions[1]["champion"], promotions[1]["code"]) == (ended[0]["model"], "not_comparable")
    assert ended[1]["phase"] == "publishing" and ended[1]["result"]["comparison"]["pictures"] == sum(dataset["counts"]["test"].values())
    assert stack.client.get("/v1/models/aliases").json()["aliases"]["resumed"] == ended[0]["model"]

    every = list(range(1, fields["epochs"] + 1))
    before, after = stack.epochs(old), stack.epochs(new["id"])
    assert before and after and before + after == every == stack.epochs(alone["id"]), "each epoch is done once"
    measured = [stack.client.get(job["links"]["metrics"]).json()["items"] for job in ended]
    assert [epoch["epoch"] for epoch in measured[0]] == every
    for one, other in zip(*measured, strict=True):
        assert [one[name] for name in ("train_loss", "val_loss", "val_accuracy")] == [
            other[name] for name in ("train_loss", "val_loss", "val_accuracy")
        ]
    curves = stack.client.get(ended[0]["links"]["curves"])
    assert curves.headers["content-type"].startswith("image/svg+xml") and "<svg" in curves.text
    packages = [stack.client.get(job["links"]["model"]).json()["package"] for job in ended]
    assert packages[0]["files"]["weights.safetensors"] == packages[1]["files"]["weights.safetensors"]
    nothing_left = stack.client.post(f"/v1/jobs/{new['id']}/resume")
    assert nothing_left.status_code == 409 and "more epochs" in nothing_left.json()["remedy"]


def test_two_versions_are_compared_by_a_job_and_the_better_one_takes_the_alias(
    stack: LiveStack, job: dict[str, Any], tmp_path: Path,
) -> None:
    """Packages made by hand, of which one takes every other dog for a cat, and the trained one; the rest is real."""
    pictures = pictures_of_red_and_green(tmp_path / "pictures", stack.settings, test=60)
    engine = create_engine(stack.settings.database)
    jobs, registry = JobStore(engine), Registry(engine)
    worse, better = (
        publish_digest(jobs, registry, make_rival(stack.settings, pictures, bias=bias), promote="never").version for bias in (GREENISH, 0.0)
    )
    engine.dispose()
    alias, post = "/v1/models/aliases/judged", stack.client.post
    assert stack.client.put(alias, json={"version": worse}).json()["how"] == "first"
    assert stack.client.put(alias, json={"version": better}).json()["code"] == "compare_first"

    def compared(version: int | str, with_alias: str) -> dict[str, Any]:
        ended = stack.wait_for_end(post(f"/v1/models/{version}/compare", params={"alias": with_alias}).json()["id"])
        assert (ended["state"], ended["kind"], ended["phase"], ended["model"]) == ("succeeded", "compare", "comparing", None), ended
        return ended

    first = compared(better, "judged")
    assert first["result"]["comparison"]["accuracy"] == {"challenger": 1.0, "champion": 0.75}
    assert stack.client.put(alias, json={"version": better}).json()["comparison"]["job_id"] == first["id"]
    trained = compared("judged", "champion")
    assert trained["config"]["champion"] == job["model"] and trained["result"]["comparison"]["pictures"] == 60
    compared(worse, "judged")
    refused = stack.client.put(alias, json={"version": worse}).json()
    assert refused["code"] == "not_promoted" and refused["comparison"]["p_value"] == pytest.approx(2**-15), refused
    assert post(f"{alias}/rollback").json()["version"] == worse


def test_cancelling_what_has_ended_is_a_conflict(stack: LiveStack, job: dict[str, Any]) -> None:
    response = stack.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"


def test_a_run_that_fails_says_why(stack: LiveStack, dataset: dict[str, Any]) -> None:
    ended = stack.wait_for_end(stack.post_job(dataset, **FAST_JOB | {"epochs": 1, "device": "cuda"}))
    if ended["state"] == "succeeded":
        pytest.skip("there is a GPU here")
    assert ended["state"] == "failed" and ended["error"]["code"] == "config"
    assert "GPU" in ended["error"]["message"] and "device" in ended["error"]["remedy"]


def test_the_log_is_there_and_says_nothing_secret(stack: LiveStack, job: dict[str, Any]) -> None:
    response = stack.client.get(f"/v1/jobs/{job['id']}/logs")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    assert "redis" not in response.text


def test_the_command_line_answers_with_the_published_model(stack: LiveStack, job: dict[str, Any], tmp_path: Path) -> None:
    sources.draw(tmp_path / "pictures", count=2, size=96, seed=7)
    (tmp_path / "notes.txt").write_text("not a picture")
    pictures = sorted(map(str, (tmp_path / "pictures").iterdir()))
    done = command_line("predict", *pictures, settings=stack.settings)
    assert done.returncode == 0, done.stderr
    assert all(picture in done.stdout for picture in pictures)
    wrong = command_line("predict", str(tmp_path / "notes.txt"), settings=stack.settings)
    assert wrong.returncode == 2 and "Expected a picture" in wrong.stderr
