"""registry_of, versions, history, promote, rollback: the models that were published on this machine, without asking a service."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from catdog.cli.terminal import out
from catdog.errors import NoModel
from catdog.settings import Settings

if TYPE_CHECKING:
    from catdog.registry import AliasMove, Registry

Alias = Annotated[str, typer.Option(help="The name that predictions ask for.")]
Reason = Annotated[str, typer.Option(help="Why, for the alias's history.")]


def registry_of(settings: Settings) -> "Registry":
    """The registry in this machine's database.

    Raises:
        NoModel: nothing was ever published here.
    """
    from catdog.database import create_engine, migrate
    from catdog.registry import Registry

    if not settings.root.is_dir():
        raise NoModel(f"Expected published models. Received: none in {settings.root}.")
    engine = create_engine(settings.database)
    migrate(engine)
    return Registry(engine)


def versions() -> None:
    """List the published models and the aliases that point to them."""
    registry = registry_of(Settings.load())
    names = registry.aliases()
    table = Table("version", "aliases", Column("labels", overflow="fold"), "test accuracy", "published")
    for model in registry.list():
        accuracy = model.metrics.get("test", {}).get("accuracy")
        pointing = ", ".join(name for name, version in names.items() if version == model.version)
        shown = "" if accuracy is None else f"{accuracy:.4f}"
        table.add_row(str(model.version), pointing, ", ".join(model.labels), shown, model.created)
    out.print(table)


def history(alias: Annotated[str, typer.Argument(help="The name that predictions ask for.")] = "champion") -> None:
    """Show every move of an alias, the newest first, with the comparison that it rests on."""
    for move in registry_of(Settings.load()).history(alias):
        _show(move)


def promote(
    version: Annotated[int, typer.Argument(min=1, help="A version of `catdog models versions`.")],
    alias: Alias = "champion", reason: Reason = "set by hand",
    force: Annotated[bool, typer.Option("--force", help="Although it is worse, or was not compared; the history says so.")] = False,
) -> None:
    """Let an alias point to a version that is no worse than the one it points to now. A running service follows within a second."""
    settings = Settings.load()
    registry = registry_of(settings)
    _check_answers(version, registry, settings)
    _show(registry.set_alias(alias, version, reason, force=force))


def rollback(alias: Alias = "champion", reason: Reason = "rolled back") -> None:
    """Let an alias point to the version before the present one."""
    settings = Settings.load()
    registry = registry_of(settings)
    version = registry.before(alias)
    _check_answers(version, registry, settings)
    _show(registry.roll_back(alias, reason, to=version))


def _check_answers(version: int, registry: "Registry", settings: Settings) -> None:
    """Loading a package proves that it answers on this machine as it was made to."""
    from catdog.inference import Predictor

    Predictor.load(settings.models / registry.get(version).digest, device=settings.device)


def _show(move: "AliasMove") -> None:
    evidence = ""
    if move.comparison is not None:
        accuracy, pictures = move.comparison["accuracy"], move.comparison["pictures"]
        evidence = (
            f", accuracy {accuracy['challenger']:.4f} against {accuracy['champion']:.4f} of version {move.comparison['champion']} "
            f"on {pictures} pictures, p = {move.comparison['p_value']:.2g}"
        )
    out.print(f"{move.created} {move.alias}: version {move.version}, {move.how}{evidence} ({move.reason})", soft_wrap=True, markup=False)
