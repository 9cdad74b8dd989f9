"""service/door.py: Host, token, body limits, the headers on the way out."""

import contextlib
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from catdog.settings import Settings
from service import door
from service.door import MAX_TENSOR_JSON_BYTES, MULTIPART_BYTES
from tests.serving import Service, is_problem, picture, publish

pytest_plugins = ("tests.service_fixtures",)


def converse(service: Service, request: bytes) -> bytes:
    """Send bytes as they are and read one answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection, connection.makefile("rb") as answer:
        connection.sendall(request)
        head = b"".join(iter(answer.readline, b"\r\n"))
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return head + answer.read(int(length[1]) if length else -1)


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200),
    ("evil.example", 400), ("localhost.evil.example", 400), ("127.0.0.1.evil.example", 400), ("", 400), ("192.168.0.1", 400),
])
def test_the_host_must_be_one_of_ours(shared_service: Service, host: str, status: int) -> None:
    assert shared_service.client.get("/", headers={"Host": host}).status_code == status


def test_a_request_with_two_hosts_or_none_is_refused(shared_service: Service) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        assert converse(shared_service, b"GET / HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_headers_without_end_are_refused_before_they_fill_the_memory(shared_service: Service) -> None:
    header = b"X-Padding: " + b"x" * 4083 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            # What the kernel's buffers on the way hold counts as sent, although the service never read it.
            while sent < 64 * 2**20:
                connection.sendall(header)
                sent += len(header)
        assert sent < 64 * 2**20
    assert shared_service.client.get("/", headers={"X-Padding": "x" * 30_000}).status_code == 200


def test_further_hosts_can_be_allowed(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    service = serve(settings.model_copy(update={"allowed_hosts": "cats.example, dogs.example"}))
    assert service.client.get("/", headers={"Host": "dogs.example:8000"}).status_code == 200
    is_problem(service.client.get("/", headers={"Host": "evil.example"}), 400, "bad_request")


def test_a_token_is_needed_where_one_is_set(settings: Settings, serve: Callable[[Settings], Service], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("long enough token\nanother line\n")
    client = serve(settings.model_copy(update={"token_file": tmp_path / "token"})).client
    assert client.get("/health/live").status_code == client.get("/v2/health/live").status_code == 200
    assert "error" in client.get("/v2/health/ready").json(), "what clients of the Open Inference Protocol read"
    for wrong in (None, "Bearer wrong", "Basic long enough token", "Bearer another line", "Bearer"):
        response = client.get("/v1/jobs", headers={"Authorization": wrong} if wrong else {})
        is_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/docs", "/openapi.json", "/health/ready", "/v1/nothing"):
        assert client.get(path).status_code == 401, path
    assert client.get("/v1/jobs", headers={"Authorization": "bearer long enough token"}).status_code == 200


@pytest.mark.parametrize(("path", "kind", "limit"), [
    ("/v1/jobs", "application/json", "json"), ("/v1/datasets", "application/json", "json"), ("/v1/jobs/job_0/cancel", "text/plain", "json"),
    ("/v1/predict", "image/png", "image"), ("/v1/datasets", "application/zip", "archive"),
    ("/v1/predict/batch", "multipart/form-data; boundary=x", "batch"), ("/v2/models/champion/infer", "application/json", "tensors"),
    ("/v2/models/champion/infer", "application/json\r\nInference-Header-Content-Length: 9", "binary tensors"),
    ("/v2/models/champion/infer", "image/png\r\nInference-Header-Content-Length: 0", "one picture"),
    ("/v2/repository/index", "application/json", "json"),
])
def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(shared_service: Service, path: str, kind: str, limit: str) -> None:
    settings = shared_service.settings
    limits = {
        "json": settings.max_json_bytes, "image": settings.max_image_bytes + MULTIPART_BYTES, "archive": settings.max_archive_bytes,
        "batch": settings.max_batch_bytes + MULTIPART_BYTES, "tensors": MAX_TENSOR_JSON_BYTES,
        "one picture": settings.max_image_bytes, "binary tensors": settings.max_batch_bytes + MAX_TENSOR_JSON_BYTES,
    }
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {limits[limit] + 1}\r\n\r\n"
    answer = converse(shared_service, head.encode())
    assert answer.startswith(b"HTTP/1.1 413") and b"application/problem+json" in answer
    assert f'"limit":{limits[limit]}'.encode() in answer


def test_who_sends_all_before_reading_hears_the_refusal(shared_service: Service) -> None:
    # More than the kernel's buffers on the way hold: who hangs up on the rest breaks the sending.
    body = bytes(32 * 2**20)
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    assert converse(shared_service, head.encode() + body).startswith(b"HTTP/1.1 413")


def test_a_refused_client_that_sends_for_ever_is_let_go(shared_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "LINGER_SECONDS", 0.2)
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as connection, pytest.raises(ConnectionError):
        connection.sendall(head)
        while True:
            connection.sendall(b"10000\r\n" + bytes(2**16) + b"\r\n")


HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("head", "more"), [
    (HEAD + b"X-Long: ", b"x" * 4096), (HEAD, b"X-Many: " + b"x" * 4000 + b"\r\n"), (b"", b"\r\n" * 2048), (b"GET /", b"x" * 4096),
    (CHUNKED + b"0\r\nTrailer: ", b"x" * 4096), (CHUNKED + b"0\r\n", b"T: " + b"x" * 4000 + b"\r\n"), (CHUNKED + b"1;e=", b"x" * 4096),
], ids=["header", "headers", "empty lines", "request line", "trailer", "trailers", "chunk extension"])
def test_what_is_no_body_has_a_limit_and_an_end(shared_service: Service, head: bytes, more: bytes) -> None:
    """Sent bit by bit, without the end that would let the service answer."""
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head)
        sent = 0
        while sent < 2**22:
            connection.sendall(more)
            sent += len(more)
    assert sent < 2**22, "refused before four mebibytes"
    assert shared_service.client.get("/health/live").status_code == 200


def test_a_head_that_comes_at_once_has_a_limit_too(shared_service: Service) -> None:
    for size, status in ((60_000, b"404"), (70_000, b"400")):
        assert converse(shared_service, b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * size + b"\r\n\r\n")[9:12] == status


@pytest.mark.parametrize(("path", "kind"), [
    ("/v1/jobs", "application/json"), ("/v1/datasets", "application/zip"), ("/v1/predict", "image/png"),
    ("/v1/predict/batch", "multipart/form-data; boundary=x"),
])
def test_a_chunked_body_is_counted(settings: Settings, serve: Callable[[Settings], Service], path: str, kind: str) -> None:
    service = serve(settings.model_copy(update={f"max_{what}_bytes": 5000 for what in ("json", "archive", "image", "batch")}))
    if path.startswith("/v1/predict"):
        service.wait_until_served(publish(service.parts).version)
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    # No last chunk: who waits for the end of this body waits for ever.
    answer = converse(service, head + chunk * (6 + MULTIPART_BYTES // 1000 if path.startswith("/v1/predict") else 6))
    assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()
    assert list(settings.datasets.iterdir()) == []


def test_a_picture_of_the_largest_size_passes_also_in_a_form(settings: Settings, serve: Callable[[Settings], Service]) -> None:
    data = picture()
    service = serve(settings.model_copy(update={"max_image_bytes": len(data)}))
    service.wait_until_served(publish(service.parts).version)
    assert service.client.post("/v1/predict", files={"file": ("a.png", data)}).status_code == 200
    body = is_problem(service.client.post("/v1/predict", files={"file": ("a.png", data + b"x")}), 413, "too_large")
    assert body["limit"] == len(data)


def test_request_ids_and_security_headers(shared_service: Service) -> None:
    headers = shared_service.client.get("/v1/jobs", headers={"X-Request-ID": "abc-1.2_3"}).headers
    assert headers["x-request-id"] == "abc-1.2_3"
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    first, second = (shared_service.client.get("/", headers={"X-Request-ID": "no spaces\there"}).headers["x-request-id"] for _ in "12")
    assert first != second and len(first) == 32


def test_a_path_cannot_forge_a_log_line(shared_service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "catdog.service")
    shared_service.client.get("/v1/x%0Aevent=forged")
    assert any("event=request" in record.getMessage() and "forged" in record.getMessage() for record in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)
