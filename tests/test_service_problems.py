"""service/problems.py: one shape for whatever goes wrong, on every route."""

import errno
from typing import Any

import pytest

from catdog import errors
from catdog.errors import FAILURES, BadConfig, BadDataset, BadImage, CorruptCheckpoint, TooLarge
from catdog.settings import Settings
from service import problems
from service.app import create_app
from tests.serving import Service, is_problem

pytest_plugins = ("tests.service_fixtures",)

ROUTES = [
    (method.upper(), path)
    for path, methods in create_app(Settings.load()).openapi()["paths"].items() for method in methods
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_answers_a_wrong_method_and_a_foreign_host_with_a_problem(shared_service: Service, method: str, path: str) -> None:
    filled = path.format(job_id="job_0", dataset_id="ds_0", alias="champion", name="7", version="7", code="x")
    other = "PATCH"
    body = is_problem(shared_service.client.request(other, filled), 405, "method_not_allowed")
    assert method in shared_service.client.request(other, filled).headers["allow"].split(", ")
    assert other in body["detail"]
    is_problem(shared_service.client.request(method, filled, headers={"Host": "evil.example"}), 400, "bad_request")


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{" in route[1]])
def test_every_route_of_one_thing_answers_an_unknown_one_with_404(shared_service: Service, method: str, path: str) -> None:
    filled = path.format(job_id="job_0", dataset_id="ds_" + "0" * 32, alias="nobody", name="7", version="7", code="nothing")
    json = {"version": 7} if method == "PUT" else None
    is_problem(shared_service.client.request(method, filled, json=json), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/jobs"), ("PUT", "/v1/models/aliases/champion"), ("POST", "/v1/datasets")])
@pytest.mark.parametrize(("body", "status", "code"), [
    (b"{", 422, "bad_input"), (b"", 422, "bad_input"), (b"[]", 422, "bad_input"), (b'"x"', 422, "bad_input"),
    (b'{"unknown": 1}', 422, "bad_input"), (b"\xff", 400, "bad_request"), (b"[" * 60_000, 400, "bad_request"),
])
def test_every_route_that_reads_json_refuses_what_is_not_its_body(
    shared_service: Service, method: str, path: str, body: bytes, status: int, code: str,
) -> None:
    response = shared_service.client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    if path == "/v1/datasets":  # reads its JSON itself, and so need not call what is no text another kind of mistake
        status, code = 422, "bad_input"
    elif path == "/v1/jobs" and body in (b"[]", b'"x"', b'{"unknown": 1}'):  # JSON, and then TrainConfig's own errors
        code = "config"
    is_problem(response, status, code)


def test_an_unknown_address_is_a_problem(shared_service: Service) -> None:
    assert "/v1/nothing" in is_problem(shared_service.client.get("/v1/nothing"), 404, "not_found")["detail"]
    is_problem(shared_service.client.get("/v1/jobs/"), 404, "not_found")


def test_a_wrong_query_names_its_place(shared_service: Service) -> None:
    body = is_problem(shared_service.client.get("/v1/jobs", params={"limit": 0, "state": "lost"}), 422, "bad_input")
    assert {wrong["pointer"] for wrong in body["errors"]} == {"/query/limit", "/query/state"}


def test_a_bug_of_ours_tells_nothing_but_its_request_id(shared_service: Service, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("the secret of /root")

    shared_service.app.add_api_route("/broken", fail, include_in_schema=False)
    response = shared_service.client.get("/broken", headers={"X-Request-ID": "mine-1"})
    body = is_problem(response, 500, "internal")
    assert body["request_id"] == "mine-1" and "secret" not in response.text
    assert "the secret of /root" in caplog.text and "request=mine-1" in caplog.text


@pytest.mark.parametrize(("error", "status", "code"), [
    (BadImage("x"), 422, "bad_image"),
    (errors.UnsupportedType("x"), 415, "unsupported_type"),
    (errors.WeightsUnavailable("x", field="weights"), 422, "weights_unavailable"),
    (errors.Conflict("x"), 409, "conflict"),
    (errors.NoModel("x"), 503, "no_model"),
    (errors.Unavailable("x"), 503, "unavailable"),
    (errors.Forbidden("x"), 401, "unauthorized"),
    (errors.DatasetChanged("x"), 409, "dataset_changed"),
    (errors.CorruptPackage("x"), 503, "corrupt_package"),
    (OSError(errno.ENOSPC, "full"), 507, "disk_full"),
    (OSError(errno.EIO, "/root/secret"), 500, "internal"),
    (CorruptCheckpoint("/root/secret"), 500, "internal"),
    (errors.BadSettings("/root/secret"), 500, "internal"),
])
def test_the_table(error: Exception, status: int, code: str) -> None:
    problem = problems.of(error)
    assert (problem.status, problem.code) == (status, code)
    assert "secret" not in problem.detail


def test_every_class_of_error_that_a_route_may_raise_has_a_status() -> None:
    def children(kind: type[errors.CatdogError]) -> list[type[errors.CatdogError]]:
        return [kind, *(grandchild for child in kind.__subclasses__() for grandchild in children(child))]

    arguments: dict[type, dict[str, Any]] = {TooLarge: {"limit": 5}, errors.NonFiniteLoss: {"step": 1}, errors.Unhealthy: {"report": None}}
    arguments |= {kind: {"field": "model"} for kind in children(BadConfig)}
    for kind in children(errors.CatdogError):
        is_ours = kind is errors.CatdogError or issubclass(kind, errors.BadSettings)
        is_of_a_run = issubclass(kind, errors.RunFailed) and kind is not errors.DatasetChanged
        assert (problems.of(kind("x", **arguments.get(kind, {}))).status == 500) == (is_ours or is_of_a_run), kind


def test_what_an_error_knows_becomes_part_of_the_problem() -> None:
    assert problems.of(TooLarge("x", limit=5)).extra == {"limit": 5}
    assert problems.of(BadConfig("bad", field="publish.alias")).errors == [{"pointer": "/publish/alias", "detail": "bad"}]
    assert problems.of(BadDataset("x", offenders=["a.jpg", "b.jpg"])).errors[1] == {"pointer": "", "detail": "b.jpg"}


def test_every_code_can_be_looked_up(shared_service: Service) -> None:
    listed = {item["code"]: item for item in shared_service.client.get("/problems").json()["items"]}
    assert set(FAILURES) <= set(listed)
    assert {"no_model", "bad_image", "method_not_allowed", "disk_full"} <= set(listed)
    assert all(item["meaning"] and item["remedy"] for item in listed.values())
    assert shared_service.client.get("/problems/no_model").json()["status"] == 503
    corrupt = shared_service.client.get("/problems/corrupt_package").json()
    assert corrupt["status"] == 503 and "package" in corrupt["meaning"] and "alias" in corrupt["remedy"]
    assert shared_service.client.get("/problems/non_finite_loss").json()["remedy"] == FAILURES["non_finite_loss"]
