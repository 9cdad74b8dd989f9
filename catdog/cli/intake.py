"""dataset_of, fetched, check_no_options, check_same_run: from what a user names to a data set, and to the run it is for."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.cli.terminal import REPORTED_NAMES, err, out
from catdog.errors import BadConfig, BadInput
from catdog.labels import shown
from catdog.settings import Settings

if TYPE_CHECKING:
    from catdog.config import RunConfig
    from catdog.plans import Labelling


def dataset_of(source: str, settings: Settings, labelling: "Labelling", seed: int = 0) -> str:
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
        check_no_options(source, labelling)
    if is_imported:
        return Dataset.open(settings.datasets / source).id
    settings.make_folders()
    if is_public:
        path = fetched(source, settings)
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


def check_no_options(source: str, labelling: "Labelling") -> None:
    """Of what is imported, or public, the labels are known."""
    from catdog.plans import Labelling

    if labelling != Labelling():
        raise BadInput(
            f"Expected no options about labels, as those of {source} are fixed. Received: {labelling.model_dump(exclude_defaults=True)}.",
            remedy="Leave them out, or import a folder or a zip.",
        )


def fetched(name: str, settings: Settings) -> Path:
    """The zip of a public collection."""
    from catdog import sources
    from catdog.display import Bars
    from catdog.progress import Progress

    with Bars(out) as bars:
        return sources.fetch_public(
            name, settings=settings, progress=lambda done, total: bars.show(Progress("step", phase="download", step=done, steps=total)),
        )


def check_same_run(run_folder: Path, config: "RunConfig") -> None:
    """A run goes on only as what it was: what it has left belongs to one config."""
    if not (run_folder / "config.json").exists():
        return
    before, now = config.read(run_folder).model_dump(), config.model_dump()
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        raise BadConfig(
            f"Expected the config this run began with. Received: another {', '.join(changed)} for {run_folder}.",
            field=changed[0], remedy="Name another folder with --run, or leave the fields as they were.",
        )
