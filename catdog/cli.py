"""main: the command line. up | train | run | predict | data | models | doctor | config | demo.

Exit codes: 0 done, 1 a run failed, 2 wrong input or settings (one line says what), 3 the doctor found an error,
75 stopped with everything on disk, 76 the device failed, 130 Ctrl-C.
"""

import json
import logging
import math
import os
import platform
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from catdog import __version__, process
from catdog.errors import BadConfig, BadInput, BadSettings, CatdogError, NoModel, NotFound, Unavailable
from catdog.labels import shown
from catdog.settings import Settings, described, nearest, wait_passively

if TYPE_CHECKING:
    from catdog.config import TrainConfig
    from catdog.plans import Labelling
    from catdog.progress import Progress
    from catdog.run import Prepared

STOPPED = 75
IMPORT_MEMORY_BYTES = 4 * 2**30
IMPORT_SLACK_SECONDS = 30
"""Beside a picture's own time: for reading it, and for the disk to keep up."""
EXIT_CODES = {"config": 2, "weights_unavailable": 2, "doctor": 3, "device_error": 76}
"""By failure code; any other failure of a run is 1."""
PROGRESS_LINES_PER_SECOND = 5
REPORTED_NAMES = 20
"""Of each finding, on a terminal."""

Labels = Annotated[str | None, typer.Option(help="The labels, separated by commas. Default: cat,dog in file names, and any folder.")]
RuleOption = Annotated[
    Literal["auto", "filename", "folder", "manifest", "pattern"],
    typer.Option("--rule", help="Where labels stand: manifest.csv or .json, folders, words in file names, or a pattern; auto finds out."),
]
Pattern = Annotated[str | None, typer.Option(help="For --rule pattern: a regular expression (RE2) with a group (?P<label>...).")]
SkipUnlabelled = Annotated[bool, typer.Option("--skip-unlabelled", help="Leave out what has no clear label, instead of refusing all.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides the split where no folders say it.")]

ResumeFrom = Annotated[
    Path | None,
    typer.Option(metavar="RUN_FOLDER", help="Begin at the newest checkpoint of that run, until this one has a checkpoint of its own."),
]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Train an image classifier, lose nothing, and ask it about photographs it has never seen.\n\n"
         "New here? `catdog demo` shows everything once. `catdog up` starts the service.",
)
data = typer.Typer(no_args_is_help=True, help="Data sets: draw pictures, fetch public ones, import folders and archives.")
models = typer.Typer(no_args_is_help=True, help="Networks: which there are, and their pretrained weights.")
doctor = typer.Typer(no_args_is_help=True, help="Examinations: is this machine fit to train and to serve?")
app.add_typer(data, name="data")
app.add_typer(models, name="models")
app.add_typer(doctor, name="doctor")
out = Console(highlight=False, markup=False)
err = Console(highlight=False, markup=False, stderr=True)


def main() -> None:
    """Run the command line; one line on standard error instead of a traceback for what the user can mend."""
    try:
        app()
    except CatdogError as error:
        sys.stderr.write(f"error: {shown(error.message)} {error.remedy}\n")
        offenders = getattr(error, "offenders", [])
        sys.stderr.writelines(f"  {shown(offender)}\n" for offender in offenders)
        wrong_input = isinstance(error, (BadInput, BadSettings, NoModel, NotFound))
        raise SystemExit(2 if wrong_input else EXIT_CODES.get(error.code, 1)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _version(value: bool) -> None:
    if value:
        out.print(f"catdog {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _asked: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    for name in Settings.unknown_variables():
        sys.stderr.write(f"warning: {name} is no setting of catdog; `catdog config` lists them\n")


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to bind; beyond loopback CATDOG_TOKEN_FILE is needed.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.")] = None,
) -> None:
    """Start the service, a worker and a Redis on this machine, until Ctrl-C."""
    from catdog.stack import Stack

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("httpx", "httpcore", "filelock"):
        logging.getLogger(library).setLevel(logging.WARNING)
    stopping = _until_signal()
    with Stack(Settings.load(host=host, port=port)) as stack:
        out.print(f"catdog is up at {stack.address}  (interactive documentation: {stack.address}/docs; Ctrl-C stops it)", soft_wrap=True)
        while not stopping:
            stack.tend()
            time.sleep(0.5)
        out.print("stopping: service, worker, redis")


def _until_signal() -> list[int]:
    """A list that SIGINT and SIGTERM add their number to: empty means go on. A second signal does not interrupt the stopping."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return received


@app.command()
def train(
    data_source: Annotated[
        str, typer.Option("--data", help="A folder of photographs, a zip of them, the id of an imported data set, or a public collection."),
    ],
    run_folder: Annotated[Path, typer.Option("--run", help="Where the run keeps everything; the same folder again goes on from there.")],
    settings_of_run: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the config, such as epochs=5; repeatable."),
    ] = None,
    labels: Labels = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Do not train: let the learning rate rise and see where the loss falls fastest."),
    ] = False,
    compare_devices: Annotated[
        bool, typer.Option("--compare-devices", help="Do not train: make three steps on the CPU and on the GPU and compare them."),
    ] = False,
    resume_from: ResumeFrom = None,
) -> None:
    """Train on photographs in this process, without a service, and leave a model package in RUN/package.

    With --resume-from it is that run's config which --set changes.
    """
    from catdog.config import TrainConfig
    from catdog.display import Bars, figures

    settings = Settings.load()
    fields = _fields(settings_of_run or [])
    before = None if resume_from is None else TrainConfig.read(resume_from)

    def checked(**source: str) -> TrainConfig:
        return before.resumed(source | fields) if before else TrainConfig.parse({"dataset": "ds_" + "0" * 32, **source, **fields})

    checked()  # refused before any picture is copied
    config = checked(dataset=_dataset(data_source, settings, _labelling(labels)))
    if find_rate or compare_devices:
        run_folder /= "probe"  # the run's own config is still open
    else:
        _check_same_run(run_folder, config)
    config.write(run_folder)
    wait_passively()
    from catdog import run as phases  # torch is imported here, when everything that needs no torch has been checked

    if find_rate or compare_devices:
        return (_find_rate if find_rate else _compare_devices)(phases.prepare(run_folder, settings))
    stopping = _until_signal()
    result: dict[str, Any] = {}
    with Bars(out) as bars:
        steps = phases.run(run_folder, settings, resume_from=resume_from)
        for progress in steps:
            bars.show(progress)
            if stopping:
                steps.close()
                out.print(f"stopped; everything is on disk, the same command goes on: {run_folder}")
                raise typer.Exit(STOPPED)
            result = progress.result or result
    for line in figures("test split", result["metrics"]["test"]):
        out.print(line, soft_wrap=True)
    out.print(f"package: {run_folder / 'package'}", soft_wrap=True)
    out.print(f"ask it: catdog predict --package {run_folder / 'package'} FILE", soft_wrap=True)
    return None


def _find_rate(prepared: "Prepared") -> None:
    from catdog import plots, probe
    from catdog.display import Bars
    from catdog.progress import Progress
    from catdog.run import features

    found = None
    with Bars(out) as bars:
        for progress in features(prepared):
            bars.show(progress)
        for number, found in enumerate(probe.range_test(
            prepared.network, prepared.split("train"), prepared.config, labels=len(prepared.dataset.labels), device=prepared.device.name,
        ), 1):
            bars.show(Progress("step", phase="find rate", step=number, steps=probe.STEPS, train_loss=found.losses[-1]))
    if found is None:
        raise BadInput("Expected a finite loss at the lowest learning rate. Received: none.", remedy="Look at the data set first.")
    picture = prepared.folder / "learning_rates.svg"
    picture.write_text(plots.learning_rates(found.rates, found.losses, proposed=found.proposed))
    proposed = "no rate at which the loss falls" if found.proposed is None else f"learning_rate={found.proposed:.2g}"
    out.print(f"proposed: {proposed} (the config has {prepared.config.learning_rate:g}); the curve: {picture}", soft_wrap=True)


def _compare_devices(prepared: "Prepared") -> None:
    from catdog import device, probe
    from catdog.display import Bars
    from catdog.run import features

    with Bars(out) as bars:
        for progress in features(prepared):
            bars.show(progress)
    table = Table("step", *(Column(f"loss on {name}", justify="right") for name in device.COMPARED), "weights differ by at most")
    for number, one in enumerate(probe.compare_devices(
        prepared.network, prepared.split("train"), prepared.config, labels=len(prepared.dataset.labels), devices=device.COMPARED,
    ), 1):
        table.add_row(str(number), *(f"{loss:.6f}" for loss in one.losses), f"{one.difference:.1e}")
    out.print(table)


def _check_same_run(run_folder: Path, config: "TrainConfig") -> None:
    """A run goes on only as what it was: its checkpoints, features and metrics belong to one config."""
    if not (run_folder / "config.json").exists():
        return
    before, now = config.read(run_folder).model_dump(), config.model_dump()
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        raise BadConfig(
            f"Expected the config this run began with. Received: another {', '.join(changed)} for {run_folder}.",
            field=changed[0], remedy="Name another folder with --run, or leave the fields as they were.",
        )


def _dataset(source: str, settings: Settings, labelling: "Labelling", seed: int = 0) -> str:
    """The id of the data set that `source` names or becomes. A file or folder goes before a public collection of the same name."""
    from catdog import sources
    from catdog.config import DATASET_ID
    from catdog.corpora import CORPORA
    from catdog.datasets import Dataset
    from catdog.display import Bars
    from catdog.progress import Progress

    path = Path(source)
    is_imported = re.fullmatch(DATASET_ID, source) is not None
    is_public = source in CORPORA and not path.exists()
    if is_imported or is_public:
        _check_no_options(source, labelling)
    if is_imported:
        return Dataset.open(settings.datasets / source).id
    settings.make_folders()
    if is_public:
        path = _fetched(source, settings)
        labelling = CORPORA[source].labelling
    with Bars(err) as bars:
        dataset = sources.import_path(
            path, settings=settings, labelling=labelling, seed=seed,
            progress=lambda done, total: bars.show(Progress("step", phase="import", step=done, steps=total)),
        )
    for one in dataset.refused[:REPORTED_NAMES]:
        err.print(f"left out: {shown(one['name'])}: {shown(one['reason'])}", soft_wrap=True)
    if len(dataset.refused) > REPORTED_NAMES:
        err.print(f"left out: {len(dataset.refused) - REPORTED_NAMES} more; `catdog data report {dataset.id}` lists them", soft_wrap=True)
    return dataset.id


def _check_no_options(source: str, labelling: "Labelling") -> None:
    """Of what is imported, or public, the labels are known."""
    from catdog.plans import Labelling

    if labelling != Labelling():
        raise BadInput(
            f"Expected no options about labels, as those of {source} are fixed. Received: {labelling.model_dump(exclude_defaults=True)}.",
            remedy="Leave them out, or import a folder or a zip.",
        )


def _fetched(name: str, settings: Settings) -> Path:
    """The zip of a public collection."""
    from catdog import sources
    from catdog.display import Bars
    from catdog.progress import Progress

    with Bars(out) as bars:
        return sources.fetch_public(
            name, settings=settings, progress=lambda done, total: bars.show(Progress("step", phase="download", step=done, steps=total)),
        )


def _labelling(labels: str | None, **fields: Any) -> "Labelling":
    from catdog.labels import checked
    from catdog.plans import Labelling

    words = None if labels is None else tuple(checked([label.strip() for label in labels.split(",")]))
    return Labelling(labels=words, **fields)


def _fields(assignments: list[str]) -> dict[str, Any]:
    """epochs=5 publish.promote=never -> {"epochs": 5, "publish": {"promote": "never"}}."""
    fields: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise BadConfig(f"Expected --set FIELD=VALUE. Received: {assignment!r}.", field=name)
        *outer, last = name.split(".")
        target = fields
        for part in outer:
            target = target.setdefault(part, {})
        try:
            target[last] = json.loads(value)
        except ValueError:
            target[last] = value
    return fields


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A run folder with a config.json.")],
    kind: Annotated[
        Literal["train", "examine"], typer.Option(help="train, or examine: what a training would see, without training."),
    ] = "train",
    fence: Annotated[int, typer.Option(min=0, help="The number of this attempt; its checkpoints go into a folder of that name.")] = 0,
    resume_from: ResumeFrom = None,
) -> None:
    """Work through a run folder, printing one line of JSON a step: what the worker starts for every job.

    Lines go to standard output, everything else that is printed to standard error. SIGTERM leaves a checkpoint (exit 75).
    """

    def steps() -> "Generator[Progress]":
        from catdog import examination
        from catdog import run as phases

        settings = Settings.load(secrets=False)
        if kind == "examine":
            return examination.examine(folder, settings)
        return phases.run(folder, settings, fence=fence, resume_from=resume_from)

    _speak(steps)


@app.command(hidden=True)
def rank(
    folder: Annotated[Path, typer.Argument(help="A run folder that is in the phase `training`.")],
    fence: Annotated[int, typer.Option(min=0, help="The number of this attempt.")] = 0,
) -> None:
    """Train as one of several processes, which torchrun has started; the first prints lines as `run` does."""
    process.die_with_parent(os.getppid())

    def steps() -> "Generator[Progress]":
        from catdog import ranks
        from catdog import run as phases

        prepared = phases.prepare(folder, Settings.load(secrets=False))
        prepared.enter("training")
        with ranks.join(prepared.device.name) as joined:
            if joined.is_first:
                yield from phases.train_as(joined, prepared, fence=fence)
            else:
                # The first stops for all: it is the one that saves. Who is left without it ends by that.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                for _ in phases.train_as(joined, prepared, fence=fence):
                    pass

    _speak(steps)


def _speak(start: Callable[[], "Generator[Progress]"]) -> None:
    """Print what a run says as lines, and nothing else; leave as soon as nothing is lost by it when a signal asks."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not end up among the lines
    phase: list[str] = ["preparing"]
    stopping: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)
        if phase[-1] != "training":
            os._exit(STOPPED)  # every finished phase's product is on disk; there is nothing to save of this one

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    wait_passively()
    said_at = 0.0
    try:
        steps = start()
        for progress in steps:
            phase.append(progress.phase or phase[-1])
            now = time.monotonic()
            if progress.kind != "step" or now - said_at >= 1 / PROGRESS_LINES_PER_SECOND:
                lines.write(progress.to_json() + "\n")
                said_at = now
            if stopping:
                steps.close()
                raise SystemExit(STOPPED)
    except Exception as error:
        from catdog.run import failure

        failed = failure(error)
        lines.write(failed.to_json() + "\n")
        logging.getLogger("catdog.run").exception("event=failed code=%s", failed.code)
        raise SystemExit(EXIT_CODES.get(failed.code or "", 1)) from error


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures: JPEG, PNG, WebP, GIF or BMP.")],
    package: Annotated[Path | None, typer.Option(help="A model package; by default the published model that `--alias` names.")] = None,
    alias: Annotated[str, typer.Option(help="The published model to ask.")] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a picture.")] = False,
) -> None:
    """Say what is on pictures."""
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
            answer = {"file": str(file), "label": prediction.label, "probabilities": prediction.probabilities}
            out.print(json.dumps(answer), soft_wrap=True)
        else:
            out.print(f"{file}: {prediction.label} {prediction.confidence:.3f}", soft_wrap=True)
    if wrong:
        raise typer.Exit(2)


def _published(alias: str, settings: Settings) -> Path:
    from catdog.database import create_engine, migrate
    from catdog.registry import Registry

    nothing = NoModel(f"Expected a published model with the alias {alias!r}. Received: none in {settings.root}.")
    if not settings.root.is_dir():
        raise nothing
    engine = create_engine(settings.database)
    migrate(engine)
    registry = Registry(engine)
    version = registry.aliases().get(alias)
    if version is None:
        raise nothing
    return settings.models / registry.get(version).digest


@data.command()
def draw(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go; it is made if it is missing.")],
    count: Annotated[int, typer.Option(min=2, max=1_000_000, help="How many pictures, half cats, half dogs.")] = 240,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
) -> None:
    """Draw pictures of cats and dogs, for machines without photographs and without a network."""
    from catdog import sources
    from catdog.display import Bars
    from catdog.progress import Progress

    with Bars(out) as bars:
        sources.draw(
            folder, count=count, size=size, seed=seed,
            progress=lambda done, total: bars.show(Progress("step", phase="draw", step=done, steps=total)),
        )
    out.print(f"{count} pictures in {folder}", soft_wrap=True)


@data.command("fetch")
def fetch_data(
    name: Annotated[str | None, typer.Argument(help="A public collection; without one they are listed.")] = None,
) -> None:
    """Download a public collection of photographs; goes on where an interrupted download stopped."""
    from catdog.corpora import CORPORA

    if name is None:
        table = Table(Column("collection", no_wrap=True), "what", "its licence")
        for corpus in CORPORA.values():
            table.add_row(corpus.name, corpus.title, corpus.licence)
        out.print(table)
        return
    path = _fetched(name, Settings.load())
    out.print(f"{name}: {path}", soft_wrap=True)
    out.print(f"import it: catdog data import {name}", soft_wrap=True)


@data.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A folder of photographs, a zip of them, or a name that `catdog data fetch` lists.")],
    labels: Labels = None, rule: RuleOption = "auto", pattern: Pattern = None, skip_unlabelled: SkipUnlabelled = False, seed: Seed = 0,
) -> None:
    """Import photographs as a data set and print its id."""
    labelling = _labelling(labels, rule=rule, pattern=pattern, unlabelled="skip" if skip_unlabelled else "refuse")
    out.print(_dataset(source, Settings.load(), labelling, seed))


@data.command()
def report(
    source: Annotated[str, typer.Argument(help="A folder of photographs, a zip of them, or the id of an imported data set.")],
    html: Annotated[Path, typer.Option("--html", help="Where the page goes that people look at.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    labels: Labels = None, rule: RuleOption = "auto", pattern: Pattern = None, skip_unlabelled: SkipUnlabelled = False, seed: Seed = 0,
) -> None:
    """Say what is in a folder of photographs, what would be left out and why, and what to look at. Nothing is imported or changed.

    Exits 0 when a data set would come of it, 3 when it would be refused.
    """
    from catdog import sources
    from catdog.config import DATASET_ID
    from catdog.display import Bars
    from catdog.progress import Progress

    labelling = _labelling(labels, rule=rule, pattern=pattern, unlabelled="skip" if skip_unlabelled else "refuse")
    if re.fullmatch(DATASET_ID, source):
        _check_no_options(source, labelling)
    _check_output(html)
    with Bars(err) as bars:
        summary, page = sources.report(
            source, settings=Settings.load(), labelling=labelling, seed=seed,
            progress=lambda done, total: bars.show(Progress("step", phase="examine", step=done, steps=total)),
        )
    html.write_bytes(page)
    if as_json:
        out.print(json.dumps(summary), soft_wrap=True)
    else:
        _show_report(summary)
        out.print(f"pictures of all this: {html}", soft_wrap=True)
    if summary["verdict"] != "ready":
        raise typer.Exit(EXIT_CODES["doctor"])


@data.command()
def sheet(
    source: Annotated[str, typer.Argument(help="A folder of photographs, a zip of them, or the id of an imported data set.")],
    picture: Annotated[Path, typer.Option("--out", help="Where the picture goes.")] = Path("contact_sheet.png"),
    settings_of_run: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the config, such as augment=strong; repeatable."),
    ] = None,
    labels: Labels = None,
) -> None:
    """Draw what a network would see of the photographs: as it is validated, and as it is trained. A folder or zip is imported for that."""
    from catdog.config import TrainConfig

    _check_output(picture, suffixes=(".png", ".jpg", ".jpeg", ".webp"))
    settings = Settings.load()
    fields = {"trainable": "all", **_fields(settings_of_run or [])}
    config = TrainConfig.parse({"dataset": _dataset(source, settings, _labelling(labels)), **fields})
    wait_passively()
    from catdog import examination

    examination.draw_sheet(config, settings).save(picture)
    out.print(f"{picture}: augment={config.augment}, geometry={config.geometry}, image_size={config.image_size}", soft_wrap=True)


def _check_output(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Before the work: what comes of it must have a place."""
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise BadInput(f"Expected a file in a folder that is there. Received: {path}.", remedy="Make the folder, or name another file.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadInput(f"Expected a picture's name ({', '.join(suffixes)}). Received: {path}.", remedy="Name another file.")


def _show_report(summary: dict[str, Any]) -> None:
    table = Table("label", *(Column(split, justify="right") for split in summary["counts"]))
    for label in summary["labels"]:
        table.add_row(label, *(str(counts[label]) for counts in summary["counts"].values()))
    out.print(table)
    for finding in summary["findings"]:
        names = finding["names"]
        out.print(f"{finding['severity']}: {shown(finding['message'])} {finding['advice']}", soft_wrap=True)
        for name in names[:REPORTED_NAMES]:
            out.print(f"    {shown(name)}", soft_wrap=True)
        if len(names) > REPORTED_NAMES:
            out.print(f"    and {len(names) - REPORTED_NAMES} more (--json names all)")
    out.print(f"{summary['images']} pictures, {len(summary['refused'])} files left out: {summary['verdict']}")


@data.command(hidden=True)
def accept(folder: Annotated[Path, typer.Argument(help="The folder of an upload: request.json, and archive.zip or nothing.")]) -> None:
    """Turn an accepted upload into a data set; what the service starts for each."""
    from catdog import sources

    settings = Settings.load(secrets=False)
    resource.setrlimit(resource.RLIMIT_AS, (IMPORT_MEMORY_BYTES, IMPORT_MEMORY_BYTES))

    def go_on(done: int, total: int) -> None:
        # Without a handler the alarm ends this process, also one that hangs inside a decoder; the service counts its deaths.
        signal.alarm(math.ceil(settings.decode_seconds) + IMPORT_SLACK_SECONDS if done < total else 0)

    try:
        sources.accept(folder, settings, progress=go_on)
    except Unavailable as error:
        sys.stderr.write(f"error: {error.message} {error.remedy}\n")
        raise typer.Exit(STOPPED) from error


@models.command("list")
def list_() -> None:
    """List the networks that can be trained, and whether their pretrained weights are on this machine."""
    from catdog import catalogue, weights

    folder = Settings.load().weights
    table = Table(Column("network", no_wrap=True), "size", "parameters", Column("weights", no_wrap=True), "their licence")
    for network in catalogue.NETWORKS.values():
        where, licence = "none exist", ""
        if catalogue.has_weights(network.name):
            where = "here" if weights.on_this_machine(network.name, folder) else "to be fetched"
            licence = catalogue.licence(network.name, "imagenet")
        table.add_row(network.name, str(network.image_size), f"{network.parameters / 1e6:.1f} M", where, licence)
    out.print(table)
    out.print("What is to be fetched: catdog models fetch NETWORK")


@models.command()
def fetch(name: Annotated[str, typer.Argument(help="A network of `catdog models list`.")]) -> None:
    """Download the pretrained weights of a network; goes on where an interrupted download stopped."""
    from catdog import weights
    from catdog.display import Bars
    from catdog.progress import Progress

    with Bars(out) as bars:
        path = weights.fetch(
            name, Settings.load().weights,
            progress=lambda done, total: bars.show(Progress("step", phase="download", step=done, steps=total)),
        )
    out.print(f"weights of {name}: {path}", soft_wrap=True)


@app.command()
def config() -> None:
    """Show each setting, its value, and where it came from."""
    settings = Settings.load()
    for name, field in Settings.model_fields.items():
        out.print(f"CATDOG_{name.upper()} = {settings.shown(name)}  ({settings.origin(name)})\n    {field.description}", soft_wrap=True)


@doctor.command()
def system(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines for people.")] = False,
) -> None:
    """Look at this machine, or at the container this runs in: is it fit for what it is set up to do?

    Prints CPUs, memory, shared memory and disk as they really are here (a container's limits, not the host's), the data folders with
    their owners, what runs compute on, and versions. Then each problem in one line with its remedy. A worker does this when it starts.

    Exits 0 when there is nothing but warnings, 3 when there is an error, 2 when the settings cannot be read.
    """
    from catdog import device, machine

    settings = Settings.load()
    here = machine.Machine.look()
    computes_on, found = device.examine(settings)
    found += machine.problems(here, settings, runs=device.has_torch())
    if as_json:
        facts = here.to_dict() | {
            "free_disk_bytes": machine.free_disk(settings.root), "computes_on": computes_on, "versions": _versions(),
            "problems": [asdict(problem) for problem in found],
        }
        out.print(json.dumps(facts), soft_wrap=True)
    else:
        limit = "no limit" if here.quota is None else f"limit {here.quota:g}"
        lines = {
            "cpus": f"{here.cpus} (cgroup: {limit}; affinity: {here.affinity})",
            "memory": f"{machine.size(here.usable_memory)} (cgroup: {'no limit' if here.memory_limit is None else 'limit'}; "
                      f"machine: {machine.size(here.memory)})",
            "shared memory": f"{machine.size(here.shared_memory)} free in /dev/shm",
            "disk": f"{machine.size(machine.free_disk(settings.root))} free where {settings.root} lies",
            "user": f"uid {os.geteuid()}, gid {os.getegid()}",
            "folders": ", ".join(described(one) for one in settings.folders if nearest(one) == one) or f"{settings.root} is not made yet",
            "computes on": computes_on,
            "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
        }
        for name, line in lines.items():
            out.print(f"{name}: {line}", soft_wrap=True)
        for problem in found:
            out.print(problem.line(), soft_wrap=True)
    if any(problem.severity == "error" for problem in found):
        raise typer.Exit(EXIT_CODES["doctor"])


def _versions() -> dict[str, str]:
    """Of what decides how a network trains and answers; the service has no torch."""
    from catdog.machine import versions

    found = {"catdog": __version__, "python": platform.python_version()}
    return found | versions("torch", "torchvision", "onnxruntime", "onnxruntime-gpu")


@app.command()
def demo(
    photographs: Annotated[
        Path | None, typer.Option("--data", help="A folder of photographs named like cat.12.jpg; by default a public set is downloaded."),
    ] = None,
) -> None:
    """Show everything once: upload, train by HTTP, publish, and classify photographs that no training saw."""
    from catdog.demo import show

    show(out, photographs)
