"""file_in: whatever the pieces a form comes in, its file is what was sent; what is no form, or not a whole one, is refused."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.forms import file_in

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
END = b"\r\n--b--\r\n"
FIELD = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nx\r\n'


def file_of(pieces: Sequence[bytes], content_type: str = "multipart/form-data; boundary=b") -> bytes:
    """What file_in finds in the field `file` of a body that comes in these pieces."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    coming = iter([*messages, {"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(coming)

    request = Request({"type": "http", "headers": [(b"content-type", content_type.encode())]}, receive)
    return asyncio.run(file_in(request, name="file"))


@given(
    content=st.binary(max_size=60) | st.lists(st.sampled_from([b"\r\n--", b"b", b"\r", b"-", b"x"])).map(b"".join),
    cuts=st.lists(st.integers(0, 200)),
)
def test_the_content_is_what_was_sent_however_it_is_cut(content: bytes, cuts: list[int]) -> None:
    if b"\r\n--b" in b"\r\n" + content:
        return  # no client that chose its boundary by the rules sends that
    form = FIELD + HEAD + content + END
    edges = sorted({0, len(form), *(min(cut, len(form)) for cut in cuts)})
    assert file_of([form[start:end] for start, end in pairwise(edges)]) == content


@pytest.mark.parametrize("form", [
    b"", b"x", HEAD, HEAD + b"half", HEAD + b"half\r\n--b", 5 * FIELD + HEAD + b"x" + END, HEAD + b"x\r\n" + HEAD + b"x" + END,
])
def test_what_is_no_whole_form_with_one_file_is_refused(form: bytes) -> None:
    with pytest.raises(HTTPException) as refused:
        file_of([form])
    assert refused.value.status_code == 400


@pytest.mark.parametrize("content_type", ["multipart/form-data", f"multipart/form-data; boundary={'b' * 300}"])
def test_a_boundary_that_is_none_is_refused(content_type: str) -> None:
    with pytest.raises(HTTPException):
        file_of([HEAD + b"x" + END], content_type)


@pytest.mark.parametrize("form", [FIELD + END[2:], HEAD.replace(b'"file"', b'"other"') + b"x" + END])
def test_a_form_without_that_file_is_refused(form: bytes) -> None:
    with pytest.raises(RequestValidationError):
        file_of([form])
