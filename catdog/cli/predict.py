"""predict: what is on pictures, by a model package or a published model."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from catdog.cli.published import registry_of
from catdog.cli.terminal import out
from catdog.errors import BadInput, CatdogError, NoModel
from catdog.settings import Settings


def predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures: JPEG, PNG, WebP, GIF or BMP.")],
    package: Annotated[Path | None, typer.Option(help="A model package; by default the published model that `--alias` names.")] = None,
    alias: Annotated[str, typer.Option(help="The published model to ask.")] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a picture.")] = False,
) -> None:
    """Say what is on pictures, or that it cannot be said: unlike the pictures it was trained on, or not sure."""
    from catdog.inference import Predictor

    if package is not None and not (package / "package.json").is_file():
        raise BadInput(f"Expected a model package, a folder with a package.json. Received: {package}.", remedy="Look at the path.")
    settings = Settings.load()
    predictor = Predictor.load(package or _published(alias, settings), device=settings.device)
    wrong = 0
    for file in files:
        try:
            prediction = predictor.predict_file(file)
        except (BadInput, CatdogError, OSError) as error:
            wrong += 1
            sys.stderr.write(f"{file}: {error}\n")
            continue
        if as_json:
            answer = {
                "file": str(file), "label": prediction.label, "decision": prediction.decision, "reason": prediction.reason,
                "confidence": prediction.confidence, "probabilities": prediction.probabilities, "distance": prediction.distance,
            }
            out.print(json.dumps(answer), soft_wrap=True)
        else:
            out.print(f"{file}: {prediction}", soft_wrap=True)
    if wrong:
        raise typer.Exit(2)


def _published(alias: str, settings: Settings) -> Path:
    model = registry_of(settings).champion(alias)
    if model is None:
        raise NoModel(f"Expected a published model with the alias {alias!r}. Received: none in {settings.root}.")
    return settings.models / model.digest
