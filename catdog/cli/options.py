"""Labels, RuleOption, Pattern, SkipUnlabelled, Seed, ResumeFrom, labelling_of, fields_of: options that several commands take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from catdog.errors import BadConfig

if TYPE_CHECKING:
    from catdog.plans import Labelling

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


def labelling_of(labels: str | None, **fields: Any) -> "Labelling":
    """What these options say together."""
    from catdog.labels import checked
    from catdog.plans import Labelling

    words = None if labels is None else tuple(checked([label.strip() for label in labels.split(",")]))
    return Labelling(labels=words, **fields)


def fields_of(assignments: list[str]) -> dict[str, Any]:
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
