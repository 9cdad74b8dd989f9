"""up: the service, a worker and a Redis on this machine."""

import logging
import time
from typing import Annotated

import typer

from catdog.cli.exits import until_signal
from catdog.cli.terminal import out
from catdog.settings import Settings


def up(
    host: Annotated[str | None, typer.Option(help="Address to bind; beyond loopback CATDOG_TOKEN_FILE is needed.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.")] = None,
) -> None:
    """Start the service, a worker and a Redis on this machine, until Ctrl-C."""
    from catdog.stack import Stack

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("httpx", "httpcore", "filelock"):
        logging.getLogger(library).setLevel(logging.WARNING)
    stopping = until_signal()
    with Stack(Settings.load(host=host, port=port)) as stack:
        out.print(f"catdog is up at {stack.address}  (interactive documentation: {stack.address}/docs; Ctrl-C stops it)", soft_wrap=True)
        while not stopping:
            stack.tend()
            time.sleep(0.5)
        out.print("stopping: service, worker, redis")
