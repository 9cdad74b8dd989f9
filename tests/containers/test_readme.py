"""The README's lines for the CPU, as a new user types them."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.containers.conftest import locked_torch
from tests.containers.engine import ROOT, Engine, wheel_index

(CPU,) = re.findall(r"^\*\*CPU\*\*\n\n```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
TREE = ("catdog", "service", "worker", "requirements", "docker", "compose.yaml", "Makefile")


def test_three_commands_bring_it_up_on_the_cpu(engine: Engine, tmp_path: Path) -> None:
    tree = tmp_path / "catdog"
    for name in TREE:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tree / name)
    files = f"compose.yaml:{Path(__file__).parent / 'host-network.yaml'}"
    with wheel_index(tmp_path / "wheels", **locked_torch()) as index:
        environment = engine.environment | {"COMPOSE_FILE": files, "COMPOSE_PROJECT_NAME": "catdog-readme", "TORCH_INDEX": index}
        compose = " ".join(engine.compose_command)

        def run(lines: str) -> str:
            return subprocess.run(
                ["bash", "-euo", "pipefail", "-c", lines.replace("docker compose", compose)],
                env=environment, cwd=tree, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            ).stdout

        try:
            assert '"queue"' in run(CPU)
        finally:
            run("docker compose down --volumes --timeout 5")
