"""predict: what is on pictures, by a model package or a published model."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from filelock import FileLock, Timeout

from catdog.cli.exits import STOPPED, until_signal
from catdog.cli.intake import check_same_run
from catdog.cli.published import registry_of
from catdog.cli.terminal import out
from catdog.errors import BadInput, CatdogError, Conflict, NoModel
from catdog.settings import Settings

Split = Literal["train", "val", "test"]


def predict(
    files: Annotated[list[Path] | None, typer.Argument(help="Pictures: JPEG, PNG, WebP, GIF or BMP.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Every picture of a folder, or of an imported data set by its id; needs --run."),
    ] = None,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Where the answers of --data go; the same folder again goes on from there."),
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Of a data set only the pictures of this split.")] = None,
    package: Annotated[Path | None, typer.Option(help="A model package; by default the published model that `--alias` names.")] = None,
    alias: Annotated[str, typer.Option(help="The published model to ask.")] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a picture.")] = False,
) -> None:
    """Say what is on pictures, or that it cannot be said: a few, or all of a folder, as a job of the service would."""
    if package is not None and not (package / "package.json").is_file():
        raise BadInput(f"Expected a model package, a folder with a package.json. Received: {package}.", remedy="Look at the path.")
    if bool(files) == (data is not None) or (data is None) != (run_folder is None):
        raise BadInput("Expected pictures, or --data with --run. Received: both, or neither.", remedy="See `catdog predict --help`.")
    settings = Settings.load()
    package = package or _published(alias, settings)
    if data is not None and run_folder is not None:
        return _all_of(data, run_folder, split=split, package=package, settings=settings)
    return _each_of(files or [], package, settings, as_json=as_json)


def _each_of(files: list[Path], package: Path, settings: Settings, *, as_json: bool) -> None:
    from catdog.inference import Predictor

    predictor = Predictor.load(package, device=settings.device)
    wrong = 0
    for file in files:
        try:
            prediction = predictor.predict_file(file)
        except (BadInput, CatdogError, OSError) as error:
            wrong += 1
            sys.stderr.write(f"{file}: {error}\n")
            continue
        if as_json:
            out.print(json.dumps({"file": str(file), **prediction.to_dict()}), soft_wrap=True)
        else:
            out.print(f"{file}: {prediction}", soft_wrap=True)
    if wrong:
        raise typer.Exit(2)


def _all_of(data: str, run_folder: Path, *, split: Split | None, package: Path, settings: Settings) -> None:
    from catdog.config import DATASET_ID
    from catdog.display import Bars
    from catdog.files import sha256_of
    from catdog.kinds import PredictConfig
    from catdog.predictions import predict

    is_imported = re.fullmatch(DATASET_ID, data) is not None
    if not (is_imported or Path(data).is_dir()) or (split is not None and not is_imported):
        raise BadInput(
            f"Expected a folder of pictures, or the id of a data set, with or without --split. Received: {data}, --split {split}.",
            remedy="Look at the path; a folder has no splits until `catdog data import` has made it a data set.",
        )
    config = PredictConfig(
        dataset=data if is_imported else str(Path(data).resolve()), split=split,
        digest=sha256_of(package / "package.json"), package=package.resolve(),
    )
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_folder / "lock")  # let go by the end of this process
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Conflict(
            f"Expected a run folder that nobody works on. Received: {run_folder}, which another `catdog predict` fills.",
            remedy="Wait until it has ended, or name another folder with --run.",
        ) from error
    check_same_run(run_folder, config)
    config.write(run_folder)
    stopping = until_signal()
    result: dict[str, Any] = {}
    with Bars(out) as bars:
        for progress in predict(run_folder, settings):
            bars.show(progress)
            if stopping:
                out.print(f"stopped; everything is on disk, the same command goes on: {run_folder}", soft_wrap=True)
                raise typer.Exit(STOPPED)
            result = progress.result or result
    answered = f"{result['images'] - result['refused']} of {result['images']} pictures"
    out.print(f"answered: {answered}, {result['abstained']} of them with no label; {result['answers']}", soft_wrap=True)
    if result["accuracy"] is not None:
        out.print(f"accuracy: {result['accuracy']:.4f}, by the most probable label of each", soft_wrap=True)
    for name in result["artifacts"]:
        out.print(run_folder / "artifacts" / name, soft_wrap=True)


def _published(alias: str, settings: Settings) -> Path:
    model = registry_of(settings).champion(alias)
    if model is None:
        raise NoModel(f"Expected a published model with the alias {alias!r}. Received: none in {settings.root}.")
    return settings.models / model.digest
