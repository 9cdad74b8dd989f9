"""Inference, weight, read, pictures_of, pixels_of, write: requests and answers of the Open Inference Protocol as bytes.

A request is one JSON object; with the header Inference-Header-Content-Length it ends after so many bytes, and the tensors that have a
`binary_data_size` follow it, end to end. BYTES elements are base64 in JSON; in binary each has its length in front, 4 bytes little-endian.
(https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and Triton's binary tensor data extension)
"""

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import numpy as np
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from catdog.errors import BadInput, TooLarge
from service.door import MAX_TENSOR_JSON_BYTES

IMAGE, PIXELS = "image", "pixels"
"""The two inputs of every model, one of which a request has."""
SIZE = struct.Struct("<I")
PART_BYTES = 110
"""The most memory that what such a sign begins takes while JSON is read (pydantic 2.14, numpy 2.4)."""
_PARTS = (b"[", b"{", b",", b":")

Name = Annotated[str, Field(max_length=64)]
Parameters = Annotated[dict[str, Any], BeforeValidator(lambda given: {} if given is None else given)]


class Tensor(BaseModel):
    """One input."""

    name: Name
    datatype: Name
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(max_length=8)
    parameters: Parameters = {}
    data: Any = None


class Wanted(BaseModel):
    """An output that is asked for."""

    name: Name
    parameters: Parameters = {}


class Inference(BaseModel):
    """A request. What it says beside this is left alone: clients add fields of their own."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, BeforeValidator(lambda given: "" if given is None else given), Field(max_length=256)] = ""
    inputs: list[Tensor] = Field(min_length=1, max_length=4)
    outputs: Annotated[list[Wanted], BeforeValidator(lambda given: [] if given is None else given), Field(max_length=8)] = []
    parameters: Parameters = {}

    @property
    def input(self) -> Tensor:
        """The one input that `read` has seen."""
        return self.inputs[0]


@dataclass(frozen=True, slots=True)
class Values:
    """One output: of float32 numbers, or of texts."""

    datatype: str
    shape: Sequence[int]
    flat: NDArray[np.float32] | Sequence[str]
    is_binary: bool

    def to_bytes(self) -> bytes:
        """As a binary tensor."""
        if isinstance(self.flat, np.ndarray):
            return self.flat.astype("<f4").tobytes()
        return b"".join(SIZE.pack(len(text)) + text for text in (text.encode() for text in self.flat))

    def to_list(self) -> list[Any]:
        """As JSON."""
        return self.flat.tolist() if isinstance(self.flat, np.ndarray) else [*self.flat]


def weight(body: bytearray, header_bytes: int | None) -> int:
    """The most bytes of memory that a request's JSON becomes: three times its own, for texts, and what its lists and numbers take."""
    end = min(len(body) if header_bytes is None else header_bytes, MAX_TENSOR_JSON_BYTES)
    return 3 * end + PART_BYTES * sum(body.count(sign, 0, end) for sign in _PARTS)


def read(body: bytearray, header_bytes: int | None) -> tuple[Inference, memoryview | None]:
    """The request, and the binary data of its one input; `header_bytes` is what Inference-Header-Content-Length says.

    With 0 the whole body is one encoded picture.

    Raises:
        BadInput, RequestValidationError: not such a request.
        TooLarge: more than MAX_TENSOR_JSON_BYTES of JSON.
    """
    if header_bytes == 0:
        picture = Tensor(name=IMAGE, datatype="BYTES", shape=[1])
        body[:0] = SIZE.pack(len(body))
        return Inference(inputs=[picture]), memoryview(body)
    end = len(body) if header_bytes is None else header_bytes
    if end > len(body):
        raise BadInput(f"Expected a body of at least {end} bytes, as Inference-Header-Content-Length says. Received: {len(body)}.")
    if end > MAX_TENSOR_JSON_BYTES:
        raise TooLarge(
            f"Expected at most {MAX_TENSOR_JSON_BYTES} bytes of JSON. Received: {end}.", limit=MAX_TENSOR_JSON_BYTES,
            remedy="Send the tensors as binary data, as tritonclient does by itself.",
        )
    inference = _parsed(bytes(body[:end]))
    rest = memoryview(body)[end:]
    size = inference.input.parameters.get("binary_data_size")
    if (size is not None or len(rest)) and size != len(rest):
        raise BadInput(f"Expected binary_data_size to be what follows the JSON, {len(rest)} bytes. Received: {str(size)[:20]}.")
    return inference, None if size is None else rest


def _parsed(text: bytes) -> Inference:
    try:
        inference = Inference.model_validate_json(text)
    except ValidationError as error:
        raise RequestValidationError([_short(dict(part)) for part in error.errors(include_url=False)]) from error
    if len(inference.inputs) != 1:
        received = ", ".join(tensor.name for tensor in inference.inputs)
        raise BadInput(f"Expected one input, {IMAGE} or {PIXELS}. Received: {received}.")
    return inference


def _short(part: dict[str, Any]) -> dict[str, Any]:
    """A wrong part without the megabytes it may hold."""
    given = part["input"]
    shown = given[:200] if isinstance(given, str) else given if isinstance(given, (int, float, type(None))) else type(given).__name__
    return part | {"loc": ("body", *part["loc"]), "input": shown}


def count_of(tensor: Tensor, *, limit: int) -> int:
    """How many pictures an input has.

    Raises:
        TooLarge: more than `limit`.
        BadInput: none.
    """
    number = tensor.shape[0] if tensor.shape else 0
    if number > limit:
        raise TooLarge(f"Expected at most {limit} pictures in one request. Received: {number}.", limit=limit)
    if number < 1:
        raise BadInput(f"Expected at least one picture. Received: the shape {tensor.shape}.")
    return number


def pictures_of(tensor: Tensor, binary: memoryview | None) -> list[bytes | memoryview]:
    """The encoded pictures of an input `image` of shape [N] or [N, 1].

    Raises:
        BadInput: not BYTES, not of such a shape, or not so many elements.
    """
    if tensor.datatype != "BYTES" or len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise BadInput(f"Expected {IMAGE} as BYTES of shape [N] or [N, 1]. Received: {tensor.datatype} of shape {tensor.shape}.")
    number = tensor.shape[0]
    pictures: list[bytes | memoryview] = list(islice(_from_json(tensor.data) if binary is None else _from_binary(binary), number + 1))
    if len(pictures) != number:
        raise BadInput(f"Expected {number} pictures, as the shape says. Received: {'more' if len(pictures) > number else len(pictures)}.")
    return pictures


def _from_json(data: Any) -> Iterator[bytes]:
    elements = data if isinstance(data, list) else [None]
    for number, element in enumerate(elements):
        text = element[0] if isinstance(element, list) and len(element) == 1 else element
        if not isinstance(text, str):
            raise BadInput(f"Expected {IMAGE} as a list of pictures in base64. Received: {type(text).__name__} at place {number}.")
        try:
            yield base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInput(
                f"Expected base64 at place {number} of {IMAGE}. Received: something else ({error}).",
                remedy="Encode the picture's bytes in base64, or send them as binary data, as tritonclient does by itself.",
            ) from error


def _from_binary(binary: memoryview) -> Iterator[memoryview]:
    place = 0
    while place < len(binary):
        start = place + SIZE.size
        place = start + (SIZE.unpack_from(binary, place)[0] if start <= len(binary) else 0)
        if place > len(binary) or start > len(binary):
            raise BadInput(f"Expected each element of {IMAGE} with its length in front. Received: {len(binary)} bytes that end too soon.")
        yield binary[start:place]


def pixels_of(tensor: Tensor, binary: memoryview | None, *, image_size: int) -> NDArray[np.uint8]:
    """The pixels (N, S, S, 3) uint8 of an input `pixels`.

    Raises:
        BadInput: not UINT8, or not of that shape.
    """
    shape = tuple(tensor.shape)
    if tensor.datatype != "UINT8" or len(shape) != 4 or shape[1:] != (image_size, image_size, 3):
        raise BadInput(
            f"Expected {PIXELS} as UINT8 of shape [N, {image_size}, {image_size}, 3]. Received: {tensor.datatype} of shape {tensor.shape}.",
        )
    values = np.frombuffer(binary, np.uint8) if binary is not None else _numbers(tensor.data)
    if values.size != np.prod(shape):
        raise BadInput(f"Expected {np.prod(shape)} numbers, as the shape says. Received: {values.size}.")
    return values.reshape(shape)


def _numbers(data: Any) -> NDArray[np.uint8]:
    try:
        values = np.asarray(data, np.float64)  # of no type of its own: a text among many would make it a table of texts of that length
    except (ValueError, TypeError, OverflowError) as error:  # lists of unequal lengths, what is no number
        raise BadInput(f"Expected {PIXELS} as numbers. Received: {str(error)[:200]}.") from error
    wrong = values[~((values >= 0) & (values <= 255) & (values % 1 == 0))]
    if wrong.size:
        raise BadInput(f"Expected {PIXELS} as whole numbers from 0 to 255. Received: {wrong[0]}.")
    return values.astype(np.uint8)


def write(head: Mapping[str, Any], outputs: Mapping[str, Values]) -> tuple[bytes, int | None]:
    """The answer's bytes, and the length of the JSON in front where binary tensors follow it."""
    described, binary = [], []
    for name, values in outputs.items():
        output: dict[str, Any] = {"name": name, "datatype": values.datatype, "shape": [*values.shape]}
        if values.is_binary:
            binary.append(values.to_bytes())
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = values.to_list()
        described.append(output)
    text = json.dumps({**head, "outputs": described}, allow_nan=False).encode()
    return b"".join([text, *binary]), len(text) if binary else None
