"""Engine, Project, wheel_index: a real Docker engine, and compose projects in it, for tests.

Where no container registry is reachable, an engine from Debian's packages and stand-ins for the base images take their place.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.living import Caller, until

ROOT = Path(__file__).parent.parent.parent
STAND_INS = ROOT.parent / "shared" / "containers" / "local-engine.sh"
PYTHON, REDIS, POSTGRES, NGINX = "python:3.11-slim-bookworm", "redis:7-bookworm", "postgres:15-bookworm", "nginx:1.28-bookworm"
HEALTHY_SECONDS = 90.0


class Engine:
    """The engine that answers here, with the base images in it."""

    def __init__(self) -> None:
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("CATDOG_", "DOCKER_", "COMPOSE_"))}
        self.environment |= {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"}
        self._make_ready((PYTHON, REDIS, POSTGRES, NGINX))
        if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode != 0:
            # A client from 23 on needs buildx for BuildKit; Debian's has it built in.
            self.environment["PATH"] = f"/usr/bin:{self.environment['PATH']}"
        v2 = subprocess.run(["docker", "compose", "version"], env=self.environment, capture_output=True, check=False).returncode == 0
        self.compose_command = ["docker", "compose"] if v2 else ["docker-compose"]

    @staticmethod
    def can_be_had() -> bool:
        """Whether an engine answers, or can be installed."""
        return _answers("docker", "info") or STAND_INS.exists()

    def _make_ready(self, images: Sequence[str]) -> None:
        def there(image: str) -> bool:
            return _answers("docker", "image", "inspect", image)

        if _answers("docker", "info") and all(there(image) or _answers("docker", "pull", image) for image in images):
            return
        done = subprocess.run([STAND_INS, *images], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        # What counts is what is there: the script ends with `docker images | head`, whose status is 141 where many images are.
        assert _answers("docker", "info") and all(map(there, images)), done.stdout + done.stderr

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS`; with `check` it must succeed."""
        return _run(["docker", *arguments], environment=self.environment, folder=ROOT, check=check)

    def build(self, target: str, tag: str, **arguments: str) -> str:
        """Build a target of the Dockerfile; return its tag. The image that had the tag before goes, gigabytes and all."""
        before = self._id(tag)
        values = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        self.docker("build", "--network", "host", "--file", "docker/Dockerfile", "--target", target, "--tag", tag, *values, ".")
        if before not in ("", self._id(tag)):
            self.docker("rmi", before, check=False)  # refused where it has another tag or a container: then it is not ours
        return tag

    def _id(self, tag: str) -> str:
        return self.docker("image", "inspect", "--format", "{{.Id}}", tag, check=False).stdout.strip()

    def inside(self, image: str, *command: str, options: Sequence[str] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of an image, as that image's user, and remove the container."""
        return self.docker("run", "--rm", *options, "--entrypoint", command[0], image, *command[1:], check=check)

    def inspect(self, *names: str) -> list[dict[str, Any]]:
        """What the engine knows of images or containers."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *names).stdout)
        return found

    def added_bytes(self, image: str) -> int:
        """The size of an image above its base."""
        whole, base = self.inspect(image, PYTHON)
        return int(whole["Size"]) - int(base["Size"])

    def files_by_layer(self, image: str) -> Iterator[set[str]]:
        """The regular files of each layer above the base, in no particular order."""
        base = len(self.inspect(PYTHON)[0]["RootFS"]["Layers"])
        layers: dict[str, set[str]] = {}
        order: list[str] = []
        with (
            subprocess.Popen(["docker", "save", image], env=self.environment, stdout=subprocess.PIPE) as saving,
            tarfile.open(fileobj=saving.stdout, mode="r|") as archive,
        ):
            for member in archive:
                content = archive.extractfile(member)
                if content is not None and member.name == "manifest.json":
                    order = json.load(content)[0]["Layers"]
                elif content is not None:
                    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=content, mode="r|") as layer:  # else it is no layer
                        layers[member.name] = {entry.name for entry in layer if entry.isfile()}
        yield from (layers[name] for name in order[base:] if name in layers)


def _run(command: Sequence[str], *, environment: dict[str, str], folder: Path, check: bool) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done


def _answers(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


class Project(Caller):
    """Containers of compose files, with secrets of their own. Use as a context manager; nothing of it remains.

    `variables` are for the compose files; `entry` is the service that is called, and its port inside.
    """

    def __init__(
        self, engine: Engine, folder: Path, *files: Path,
        variables: Mapping[str, str] | None = None, entry: tuple[str, int] = ("service", 8000),
    ) -> None:
        self.engine = engine
        self.client = httpx.Client()
        self._entry = entry
        self.name = f"catdog-{uuid.uuid4().hex[:8]}"
        self.tree = folder / "catdog"
        self._files = files
        self.environment = engine.environment | {"CATDOG_PORT": "0"} | dict(variables or {})

    def __enter__(self) -> Self:
        # A tree of its own: secrets lie beside the compose files, and those of the person who runs the tests are left alone.
        self.tree.mkdir(parents=True)
        for name in ("compose.yaml", "docker", "Makefile"):
            (self.tree / name).symlink_to(ROOT / name) if name == "Makefile" else self._copy(name)
        subprocess.run(["make", "--silent", "secrets"], cwd=self.tree, check=True)
        self.token = (self.tree / "secrets" / "catdog_token").read_text()
        return self

    def _copy(self, name: str) -> None:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, self.tree / name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(self.compose("ps", check=False).stdout)
            print(self.compose("logs", "--no-color", "--tail=60", check=False).stdout[-20_000:])
        self.client.close()
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run compose with this project's files."""
        files = [part for file in self._files for part in ("-f", str(file if file.is_absolute() else self.tree / file))]
        command = [*self.engine.compose_command, "-p", self.name, *files, *arguments]
        return _run(command, environment=self.environment, folder=self.tree, check=check)

    def up(self, *arguments: str) -> float:
        """Start everything, wait until every container is healthy, and return the seconds that took."""
        began = time.monotonic()
        self.compose("up", "--detach", "--no-build", *arguments)
        until(self._healthy, "healthy containers", seconds=HEALTHY_SECONDS)
        seconds = time.monotonic() - began
        if self.containers(self._entry[0]):
            self._call()
        return seconds

    def _call(self) -> None:
        self.client.close()
        headers = {"Authorization": f"Bearer {self.token}"}
        self.client = httpx.Client(base_url=self.address(*self._entry), headers=headers, timeout=120, trust_env=False)

    def _healthy(self) -> bool:
        states = [container["State"] for container in self.containers()]
        return all(state.get("Health", {}).get("Status", state["Status"]) in ("healthy", "running") for state in states)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What the engine knows of this project's containers, or of those of one service."""
        ids = self.compose("ps", "--quiet", *([service] if service else [])).stdout.split()
        return self.engine.inspect(*ids) if ids else []

    def container(self, service: str) -> dict[str, Any]:
        """The only container of a service."""
        found, = self.containers(service)
        return found

    def run(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in the container of a service, and return what it printed."""
        return self.engine.docker("exec", self.container(service)["Id"], *command, check=check).stdout

    def address(self, service: str, port: int) -> str:
        """Where a port of a service is published; on loopback or nowhere."""
        published = self.container(service)["NetworkSettings"]["Ports"][f"{port}/tcp"]
        assert [binding["HostIp"] for binding in published] == ["127.0.0.1"], published
        return f"http://127.0.0.1:{published[0]['HostPort']}"


@contextmanager
def wheel_index(folder: Path, **versions: str) -> Iterator[str]:
    """A folder of small stand-in wheels as a package index on loopback; yields its address."""
    for name, version in versions.items():
        info = f"{name}-{version}.dist-info"
        (folder / name).mkdir(parents=True)
        with zipfile.ZipFile(folder / name / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in wheel.namelist()))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
