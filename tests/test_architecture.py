"""The house: who may import whom, what stands only once, what names there are."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from catdog import __version__

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("catdog", "service", "worker") for path in (ROOT / room).rglob("*.py"))

SERVICE_MAY = {
    "jobs", "kinds", "registry", "database", "leadership", "broker", "inference", "calibration", "explanation", "images", "datasets",
    "labels", "sources", "plans", "balance", "staging", "catalogue", "machine", "weights", "progress", "config", "settings", "plots",
    "device", "errors", "process", "files",
    "epochs", "inheritance",  # what a run has measured so far, and whether it left something to go on from
    "doctor.findings", "doctor.curve",  # what the doctor has written down, and what the curves say: read, never examined
}
WORKER_MAY = {
    "jobs", "kinds", "registry", "comparison", "database", "broker", "progress", "config", "settings", "device", "errors", "process",
    "files",
}
TORCH_FREE = (
    "catdog", "catdog.inference", "catdog.judgement", "catdog.images", "catdog.datasets", "catdog.sources", "catdog.corpora",
    "catdog.catalogue", "catdog.weights", "catdog.jobs", "catdog.kinds", "catdog.predictions", "catdog.contest",
    "catdog.registry", "catdog.broker", "catdog.device", "catdog.plots", "catdog.tracking", "catdog.doctor.findings", "catdog.doctor.curve",
    "catdog.cli", "catdog.stack", "service.app", "worker.app",
)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from (f"{module}.{alias.name}" if module in ("catdog", "service", "worker") else module for alias in node.names)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_who_may_import_whom(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        top, _, rest = module.partition(".")
        inner = ".".join(rest.split(".")[:2]) if rest.startswith("doctor.") else rest.partition(".")[0]
        if room == "catdog":
            assert top not in ("service", "worker", "fastapi", "starlette", "uvicorn", "celery", "kombu"), module
            if path.stem not in ("database", "jobs", "leadership", "migrations", "registry"):
                assert top != "sqlalchemy", module
        else:
            assert top != "torch", module
            assert top != "sqlalchemy", module
            assert top != {"service": "worker", "worker": "service"}[room], module
            if top == "catdog" and inner != "__version__":
                assert inner in (SERVICE_MAY if room == "service" else WORKER_MAY), module


def test_only_these_load_torch() -> None:
    program = f"""
import importlib, sys
for name in {TORCH_FREE!r}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_backward_stands_once() -> None:
    trains = [path for path in SOURCES if not named(path).startswith("catdog/doctor/")]  # which looks at anyone's loop
    calls = [f"{named(path)}: {line.strip()}" for path in trains for line in path.read_text().splitlines() if ".backward(" in line]
    assert len(calls) == 1 and calls[0].startswith("catdog/loop.py"), calls


def test_the_environment_is_read_in_one_file() -> None:
    readers = {named(path) for path in SOURCES if re.search(r"environ\b|getenv|BaseSettings", path.read_text())}
    assert readers == {"catdog/settings.py"}


def test_only_the_device_file_branches_on_the_device() -> None:
    allowed = {"catdog/device.py", "catdog/config.py"}  # the config only lists what may be asked for
    for path in SOURCES:
        code = "\n".join(ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Compare, ast.Call)))
        if named(path) not in allowed:
            assert '"cuda"' not in code and "'cuda'" not in code and "torch.cuda" not in code, named(path)


def test_no_file_is_called_after_nothing_or_after_the_standard_library() -> None:
    for path in SOURCES:
        assert not re.match(r"(utils?|helpers?|common|misc|manager|base|core)$", path.stem), named(path)
        if path.stem not in ("__init__", "__main__"):
            shadows = path.parent.name in ("catdog", "service", "worker") and path.stem in sys.stdlib_module_names
            assert not shadows, named(path)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_says_what_lives_in_it(path: Path) -> None:
    if path.name != "__init__.py" or path.read_text().strip():
        assert ast.get_docstring(ast.parse(path.read_text())), named(path)


def pins(name: str) -> set[str]:
    """What a lock pins, each `name==version`."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text and "--hash=sha256:" in text
    return set(re.findall(r"^([a-z0-9][^ \n]*==[^ \n]+)", text, re.MULTILINE))


def test_each_lock_is_a_part_of_the_larger_one_and_torch_has_its_own() -> None:
    service, worker, full, torch = pins("service-cpu"), pins("worker"), pins("full"), pins("torch")
    assert service < worker < full
    heavy = re.compile(r"(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==")
    assert not [pin for pin in full if heavy.match(pin)] and all(map(heavy.match, torch))
    assert {pin.partition("==")[0] for pin in torch} >= {"torch", "torchvision"}


def test_the_cuda_service_has_one_onnxruntime_and_it_is_the_gpus() -> None:
    cpu, cuda = pins("service-cpu"), pins("service-cuda")
    assert [pin.partition("==")[0] for pin in cpu - cuda] == ["onnxruntime"]
    assert "onnxruntime-gpu" in {pin.partition("==")[0] for pin in cuda - cpu}


def test_there_is_one_dockerfile_and_a_reason_above_each_of_its_instructions() -> None:
    assert sorted(path.name for path in (ROOT / "docker").iterdir()) == [
        "Dockerfile", "Dockerfile.dockerignore", "compose.cuda.yaml", "compose.scale.yaml", "nginx.conf",
    ]
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert f"ARG VERSION={__version__}\n" in text
    lines = re.sub(r"\\\n", "", text).splitlines()
    for above, line in pairwise(lines):
        if re.match(r"[A-Z]+ ", line) and not line.startswith(("FROM ", "ARG ")):
            assert above.startswith("# "), f"no reason above: {line}"


def test_no_pickle_is_ever_loaded() -> None:
    for path in SOURCES:
        imported = {name.partition(".")[0] for name in imports(path)}
        assert not imported & {"cloudpickle", "dill", "joblib", "marshal", "shelve"}, named(path)
        assert not re.search(r"pickle\.loads?\(|Unpickler\b", path.read_text()), named(path)
        for call in re.findall(r"torch\.load\([^)]*\)", path.read_text()):
            assert "weights_only=True" in call, f"{named(path)}: {call}"
