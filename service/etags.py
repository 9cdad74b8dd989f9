"""answer, IfNoneMatch: what a client has already is not sent again."""

import hashlib
from typing import Annotated

from fastapi import Header, Response

IfNoneMatch = Annotated[str | None, Header(description="The ETag of an earlier answer.")]


def answer(response: Response, if_none_match: str | None) -> Response:
    """The response with its ETag; 304 without a body where the client's copy is the same."""
    etag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    response.headers["ETag"], response.headers["Cache-Control"] = etag, "no-cache"
    if if_none_match is None or etag not in {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}:
        return response
    kept = {name: value for name in ("ETag", "Cache-Control", "Vary") if (value := response.headers.get(name))}
    return Response(status_code=304, headers=kept)
