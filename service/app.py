"""create_app: the service's application, put together from its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

from catdog import __version__
from catdog.settings import Settings
from service import problems
from service.door import Door, token_digest
from service.parts import open_parts
from service.routes import ROUTERS

DESCRIPTION = """Train an image classifier over HTTP, lose nothing, and ask it about photographs it has never seen.

Upload a zip to `/v1/datasets`, start a job with `/v1/jobs`, send a picture to `/v1/predict`.
Whatever goes wrong is answered as `application/problem+json`; `/problems/CODE` says what a code means."""

_PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/problem+json": {"schema": problems.SCHEMA}}}
    for code, text in ((422, "The request cannot be done as it is"), ("default", "Anything else that goes wrong"))
}


def create_app(settings: Settings) -> FastAPI:
    """The application; its parts are opened when it starts and closed when it stops.

    Raises:
        BadSettings: the token file cannot be used.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_parts(settings) as parts:
            app.state.parts = parts
            yield

    app: FastAPI = FastAPIOffline(
        title="catdog",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=[Middleware(Door, settings=settings, token=token_digest(settings.token()))],
        exception_handlers=problems.HANDLERS,
        responses=_PROBLEM,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for router in ROUTERS:
        app.include_router(router)
    return app
