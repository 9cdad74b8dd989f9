"""locked_torch, and fixtures: the engine, and each image built once from the Dockerfile."""

import re
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.containers.engine import ROOT, Engine, wheel_index

TORCH_LOCK = (ROOT / "requirements" / "torch.txt").read_text()


def locked_torch() -> dict[str, str]:
    """The versions of torch and torchvision that the lock pins."""
    return dict(re.findall(r"^(torch|torchvision)==(\S+)", TORCH_LOCK, re.MULTILINE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the engine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.containers)


@pytest.fixture(scope="session")
def engine() -> Engine:
    if not Engine.can_be_had():
        missing("a Docker engine")
    return Engine()


@pytest.fixture(scope="session")
def service_image(engine: Engine) -> str:
    return engine.build("service", "catdog-service:cpu")


@pytest.fixture(scope="session")
def redis_image(engine: Engine) -> str:
    return engine.build("redis", "catdog-redis")


@pytest.fixture(scope="session")
def small_worker_image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The CPU worker, whole but for torch: two stand-in wheels of the locked versions come from the index that TORCH_INDEX names."""
    with wheel_index(tmp_path_factory.mktemp("wheels"), **locked_torch()) as address:
        return engine.build("worker", "catdog-worker:cpu", TORCH_INDEX=address)


@pytest.fixture(scope="session")
def worker_image(engine: Engine) -> str:
    """The CUDA worker with everything in it; as the ordinary registry has no CPU build of torch, it stands in for the CPU worker too."""
    return engine.build("worker", "catdog-worker:cuda", VARIANT="cuda")
