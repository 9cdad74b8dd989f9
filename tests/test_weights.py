"""weights: found, verified, and fetched over a real HTTP server that knows ranges, breaks off, and lies."""

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from catdog import catalogue, weights
from catdog.errors import BadConfig, WeightsUnavailable

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FileServer(ThreadingHTTPServer):
    """Serves one file at every path."""

    content = CONTENT
    breaks_after: int | None = None
    """Bytes after which the next answer breaks off."""
    knows_ranges = True
    status: int | None = None
    """Answer this and nothing else."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        """The Range header of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/resnet18.pth"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.knows_ranges else 0
        body = self.server.content[start:]
        if self.server.status is not None or (start and not body):
            self.send_response(self.server.status or 416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}")
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])
        self.server.breaks_after = None

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that the catalogue names for resnet18."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        network = catalogue.NETWORKS["resnet18"]
        assert network.weights is not None
        served = dataclasses.replace(network.weights, url=server.url, sha256=SHA256[:8])
        monkeypatch.setitem(catalogue.NETWORKS, "resnet18", dataclasses.replace(network, weights=served))
        yield server
        server.shutdown()
        thread.join()


def part_of(folder: Path) -> Path:
    return folder / (weights.path("resnet18", folder).name + ".part")


def test_a_fetched_file_is_whole_and_on_this_machine(tmp_path: Path, server: FileServer) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    assert not weights.on_this_machine("resnet18", folder)
    seen: list[tuple[int, int]] = []
    path = weights.fetch("resnet18", folder, progress=lambda done, total: seen.append((done, total)))
    assert path == weights.path("resnet18", folder)
    assert path.read_bytes() == CONTENT
    assert weights.on_this_machine("resnet18", folder)
    assert not part_of(folder).exists()
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_file_that_is_here_is_not_fetched_again(tmp_path: Path, server: FileServer) -> None:
    weights.fetch("resnet18", tmp_path)
    weights.fetch("resnet18", tmp_path)
    assert server.asked == [None]


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path: Path, server: FileServer) -> None:
    server.breaks_after = 300_000
    with pytest.raises(WeightsUnavailable, match="Received: ") as caught:
        weights.fetch("resnet18", tmp_path)
    assert "goes on where it stopped" in caught.value.remedy
    assert not weights.on_this_machine("resnet18", tmp_path)
    have = part_of(tmp_path).stat().st_size
    assert 0 < have <= 300_000
    seen: list[tuple[int, int]] = []
    assert weights.fetch("resnet18", tmp_path, progress=lambda done, total: seen.append((done, total))).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"]
    assert seen[0][0] > have
    assert {total for _, total in seen} == {len(CONTENT)}


def test_a_server_that_knows_no_ranges_is_asked_from_the_start(tmp_path: Path, server: FileServer) -> None:
    server.knows_ranges = False
    part_of(tmp_path).write_bytes(b"something else")
    assert weights.fetch("resnet18", tmp_path).read_bytes() == CONTENT


def test_a_whole_part_is_taken_as_it_is(tmp_path: Path, server: FileServer) -> None:
    part_of(tmp_path).write_bytes(CONTENT)
    assert weights.fetch("resnet18", tmp_path).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_leaves_nothing_to_go_on_from(tmp_path: Path, server: FileServer) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(WeightsUnavailable, match=f"begins with {SHA256[:8]}. Received: "):
        weights.fetch("resnet18", tmp_path)
    assert not weights.on_this_machine("resnet18", tmp_path)
    assert not part_of(tmp_path).exists()
    server.content = CONTENT
    assert weights.fetch("resnet18", tmp_path).read_bytes() == CONTENT


def test_a_beginning_that_belongs_to_another_file_is_found_out(tmp_path: Path, server: FileServer) -> None:
    part_of(tmp_path).write_bytes(b"x" * 1000)
    with pytest.raises(WeightsUnavailable, match="sha256"):
        weights.fetch("resnet18", tmp_path)
    assert weights.fetch("resnet18", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 503])
def test_an_error_of_the_server_is_told(status: int, tmp_path: Path, server: FileServer) -> None:
    server.status = status
    with pytest.raises(WeightsUnavailable, match=f"Received: .*{status}") as caught:
        weights.fetch("resnet18", tmp_path)
    assert caught.value.code == "weights_unavailable"
    assert not part_of(tmp_path).exists()


def test_no_network_is_told(tmp_path: Path, server: FileServer) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsUnavailable, match=r"Received: .*refused") as caught:
        weights.fetch("resnet18", tmp_path)
    assert str(weights.path("resnet18", tmp_path)) in caught.value.remedy


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsUnavailable, match="Expected to write") as caught:
        weights.fetch("resnet18", tmp_path / "file" / "weights")
    assert "CATDOG_WEIGHTS_DIR" in caught.value.remedy


def test_two_fetches_at_once_give_one_whole_file(tmp_path: Path, server: FileServer) -> None:
    threads = [threading.Thread(target=weights.fetch, args=("resnet18", tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert weights.path("resnet18", tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]


def test_verified_reads_the_bytes(tmp_path: Path, server: FileServer) -> None:
    with pytest.raises(WeightsUnavailable, match="Received: no file") as caught:
        weights.verified("resnet18", tmp_path)
    assert "catdog models fetch resnet18" in caught.value.remedy
    path = weights.fetch("resnet18", tmp_path)
    assert weights.verified("resnet18", tmp_path) == path
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsUnavailable, match=SHA256[:8]) as caught:
        weights.verified("resnet18", tmp_path)
    assert f"Remove {path}" in caught.value.remedy


def test_the_default_network_has_its_weights_from_a_package(tmp_path: Path) -> None:
    assert weights.on_this_machine("efficientnet_lite0", None)
    path = weights.verified("efficientnet_lite0", None)
    network = catalogue.NETWORKS["efficientnet_lite0"]
    assert network.weights is not None
    assert path.stat().st_size == network.weights.size_bytes
    assert weights.fetch("efficientnet_lite0", tmp_path) == path
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    network = dataclasses.replace(catalogue.NETWORKS["efficientnet_lite0"], package="no_such_package")
    monkeypatch.setitem(catalogue.NETWORKS, "efficientnet_lite0", network)
    assert not weights.on_this_machine("efficientnet_lite0", None)
    with pytest.raises(WeightsUnavailable, match="Expected the package no_such_package") as caught:
        weights.verified("efficientnet_lite0", None)
    assert "Install no-such-package" in caught.value.remedy


def test_a_network_without_weights_and_a_name_that_is_none(tmp_path: Path) -> None:
    assert not weights.on_this_machine("unet", tmp_path)
    assert not weights.on_this_machine("resnet18", None)
    with pytest.raises(WeightsUnavailable, match="Received: unet"):
        weights.fetch("unet", tmp_path)
    with pytest.raises(WeightsUnavailable, match="Expected a folder"):
        weights.verified("resnet18", None)
    for question in (weights.on_this_machine, weights.path, weights.verified, weights.fetch):
        with pytest.raises(BadConfig, match="Received: model='resnet17'") as caught:
            question("resnet17", tmp_path)
        assert "resnet18" in caught.value.remedy
