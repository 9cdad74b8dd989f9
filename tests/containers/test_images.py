"""The images: what is in them, how large they are, whose they are."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from catdog import __version__
from tests.containers.engine import PYTHON, Engine

SERVICE_BYTES = 350_000_000
"""What the service image may add to its base."""
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "nvcc", "cargo", "go")
INSTALLED = "import importlib.metadata as m, json; print(json.dumps(sorted([d.metadata['Name'], d.version] for d in m.distributions())))"
IMAGES = [
    pytest.param("service_image", id="service"),
    pytest.param("small_worker_image", id="small-worker"),
    pytest.param("worker_image", id="cuda-worker", marks=pytest.mark.long),
]


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    name: str = request.getfixturevalue(request.param)
    return name


def packages(engine: Engine, image: str) -> dict[str, str]:
    found: list[tuple[str, str]] = json.loads(engine.inside(image, "python", "-c", INSTALLED).stdout)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_the_service_image_is_small_and_has_no_torch_and_no_cuda(engine: Engine, service_image: str) -> None:
    added = engine.added_bytes(service_image)
    print(f"\n{service_image}: {added / 1e6:.0f} MB above {PYTHON}")
    assert added <= SERVICE_BYTES
    there = packages(engine, service_image)
    assert "onnxruntime" in there
    assert not [name for name in there if re.match(r"nvidia|cuda|torch|triton|onnxruntime-gpu", name)]


def test_the_cpu_worker_takes_its_torch_from_the_index_and_no_cuda(engine: Engine, small_worker_image: str) -> None:
    there = packages(engine, small_worker_image)
    print(f"\n{small_worker_image}: {engine.added_bytes(small_worker_image) / 1e6:.0f} MB above {PYTHON}, without a real torch")
    stand_in = engine.inside(small_worker_image, "python", "-c", "import torch; print(torch.__version__, hasattr(torch, 'nn'))").stdout
    assert stand_in.split() == [there["torch"], "False"]
    assert not [name for name in there if re.match(r"nvidia|cuda|triton|onnxruntime-gpu", name)]


@pytest.mark.long
def test_the_cuda_worker_has_a_torch_with_cuda(engine: Engine, worker_image: str) -> None:
    print(f"\n{worker_image}: {engine.added_bytes(worker_image) / 1e9:.2f} GB above {PYTHON}")
    built = engine.inside(worker_image, "python", "-c", "import torch; print(torch.version.cuda, torch.cuda.get_arch_list())").stdout
    assert not built.startswith("None") and "sm_90" in built


def test_nothing_in_it_belongs_to_who_runs_it_and_nothing_compiles(engine: Engine, image: str) -> None:
    where = engine.inside(image, "sh", "-c", f"command -v {' '.join(COMPILERS)}; exit 0").stdout
    assert where == ""
    others = ("-not", "-user", "root", "-o", "-perm", "/022", "-not", "-type", "l")
    assert engine.inside(image, "find", "/opt/catdog", "/app", *others).stdout == ""
    assert engine.inside(image, "stat", "-c", "%u:%g %a", "/data").stdout.strip() == "10001:0 2770"


def test_no_file_is_stored_twice(engine: Engine, image: str) -> None:
    """A `chown -R` after a COPY stores everything once more; so does a copy out of another stage over the same files."""
    times = Counter(name for layer in engine.files_by_layer(image) for name in layer)
    assert times and not [name for name, number in times.items() if number > 1]


def test_its_settings(engine: Engine, image: str) -> None:
    config: dict[str, Any] = engine.inspect(image)[0]["Config"]
    program = "service" if "service" in image else "worker"
    assert config["User"] == "10001:0"
    assert config["Cmd"] == ["python", "-m", program] and not config["Entrypoint"]
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", f"{program}.check"]
    assert config["StopSignal"] == "SIGTERM"
    labels = config["Labels"]
    variant = image.rpartition(":")[2]
    assert labels["org.opencontainers.image.title"] == f"catdog {program} ({variant})"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.base.name"] == PYTHON
    assert f"CATDOG_DEVICE={variant}" in config["Env"]


def test_its_bill_of_materials_is_what_is_installed(engine: Engine, image: str) -> None:
    bill = json.loads(engine.inside(image, "cat", "/opt/catdog/sbom.cdx.json").stdout)
    assert bill["bomFormat"] == "CycloneDX"
    listed = {part["name"].lower().replace("_", "-"): part["version"] for part in bill["components"]}
    assert listed == packages(engine, image)


def test_an_unknown_variant_is_refused(engine: Engine) -> None:
    options = ("--network", "host", "--file", "docker/Dockerfile", "--target", "worker", "--build-arg", "VARIANT=gpu")
    done = engine.docker("build", *options, ".", check=False)
    assert done.returncode != 0 and "Expected VARIANT cpu or cuda. Received: gpu." in done.stdout + done.stderr
