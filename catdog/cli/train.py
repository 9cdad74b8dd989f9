"""train: a training in this process, without a service."""

from pathlib import Path
from typing import Annotated, Any

import typer

from catdog.cli import probes
from catdog.cli.exits import STOPPED, until_signal
from catdog.cli.intake import check_same_run, dataset_of
from catdog.cli.options import Labels, ResumeFrom, fields_of, labelling_of
from catdog.cli.terminal import out
from catdog.settings import Settings, wait_passively


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
    fields = fields_of(settings_of_run or [])
    before = None if resume_from is None else TrainConfig.read(resume_from)

    def checked(**source: str) -> TrainConfig:
        return before.resumed(source | fields) if before else TrainConfig.parse({"dataset": "ds_" + "0" * 32, **source, **fields})

    checked()  # refused before any picture is copied
    config = checked(dataset=dataset_of(data_source, settings, labelling_of(labels)))
    if find_rate or compare_devices:
        run_folder /= "probe"  # the run's own config is still open
    else:
        check_same_run(run_folder, config)
    config.write(run_folder)
    wait_passively()
    from catdog import run as phases  # torch is imported here, when everything that needs no torch has been checked

    if find_rate or compare_devices:
        return (probes.find_rate if find_rate else probes.compare_devices)(phases.prepare(run_folder, settings))
    stopping = until_signal()
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
