"""file_in: the file that a form brings. It stays in memory, where a picture's bytes must be anyway: Starlette's own forms keep what has
more than a megabyte on disk, and every photograph of a telephone has."""

from dataclasses import dataclass, field

from fastapi.exceptions import RequestValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_PARTS = 5


@dataclass(slots=True)
class _Part:
    disposition: bytearray = field(default_factory=bytearray)
    content: list[memoryview] = field(default_factory=list)

    def option(self, name: bytes) -> str | None:
        """What its Content-Disposition says: `name` of the field, `filename` of a file."""
        value = parse_options_header(bytes(self.disposition))[1].get(name)
        return None if value is None else value.decode("utf-8", "replace")


class _Parts(list[_Part]):
    """What the parser finds."""

    is_whole = False
    """Whether the last boundary has come."""

    def __init__(self) -> None:
        self._name, self._value = bytearray(), bytearray()

    def on_part_begin(self) -> None:
        if len(self) == MAX_PARTS:
            raise FormParserError(f"more than {MAX_PARTS} parts")
        self.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self[-1].disposition = self._value
        self._name, self._value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self[-1].content.append(memoryview(data)[start:end])

    def on_end(self) -> None:
        self.is_whole = True


async def file_in(request: Request, *, name: str) -> bytes:
    """The content of the file in the field `name` of a multipart/form-data body, of which each piece is looked through as it comes.

    Raises:
        HTTPException: 400, it is no such body, or not a whole one.
        RequestValidationError: it has no file in that field.
    """
    parts = _Parts()
    try:
        boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
        parser = MultipartParser(boundary, {
            "on_part_begin": parts.on_part_begin, "on_part_data": parts.on_part_data, "on_end": parts.on_end,
            "on_header_field": parts.on_header_field, "on_header_value": parts.on_header_value, "on_header_end": parts.on_header_end,
        })
        async for piece in request.stream():
            parser.write(piece)
        parser.finalize()
        if not parts.is_whole:
            raise FormParserError("it ends before its last boundary")
    except FormParserError as error:
        raise HTTPException(400, f"Expected a form as RFC 7578 has it. Received: one in which this is wrong: {error}.") from error
    files = [part for part in parts if part.option(b"filename") is not None]
    if len(files) > 1:
        raise HTTPException(400, f"Expected a form with one file. Received: {len(files)} of them.")
    if not files or files[0].option(b"name") != name:
        received = ", ".join(part.option(b"name") or "" for part in parts)[:200] or "an empty form"
        message = f"Expected a form with a file in its field `{name}`"
        raise RequestValidationError([{"type": "no_file", "loc": ("body", name), "msg": message, "input": received}])
    return b"".join(files[0].content)
