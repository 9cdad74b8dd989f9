"""demo: everything once."""

from pathlib import Path
from typing import Annotated

import typer

from catdog.cli.terminal import out


def demo(
    photographs: Annotated[
        Path | None, typer.Option("--data", help="A folder of photographs named like cat.12.jpg; by default a public set is downloaded."),
    ] = None,
) -> None:
    """Show everything once: upload, train by HTTP, publish, and classify photographs that no training saw."""
    from catdog.demo import show

    show(out, photographs)
