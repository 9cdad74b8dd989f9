"""GET /problems: what each code of an error means, and what to do about it."""

from typing import Any

from fastapi import APIRouter

from catdog.errors import NotFound
from service.problems import meanings

router = APIRouter(prefix="/problems", tags=["service"])


@router.get("")
def list_() -> dict[str, Any]:
    """Every code."""
    return {"items": list(meanings().values())}


@router.get("/{code}")
def get(code: str) -> dict[str, Any]:
    """One code."""
    table = meanings()
    if code not in table:
        raise NotFound(f"Expected the code of a problem. Received: {code[:200]!r}.", remedy="GET /problems lists them.")
    return table[code]
