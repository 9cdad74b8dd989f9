"""main, app: the command line, put together. up | train | run | predict | data | models | doctor | config | demo.

Each file here holds a command or a group of commands, or the one thing that several of them share. What takes long to import is imported
by the command that needs it.

Exit codes: 0 done, 1 a run failed, 2 wrong input or settings (one line says what), 3 the doctor found an error,
75 stopped with everything on disk, 76 the device failed, 130 Ctrl-C.
"""

import sys
from typing import Annotated

import typer

from catdog import __version__
from catdog.cli import config, data, demo, doctor, models, predict, run, train, up
from catdog.cli.exits import EXIT_CODES
from catdog.cli.terminal import out
from catdog.errors import BadInput, BadSettings, CatdogError, NoModel, NotFound
from catdog.labels import shown
from catdog.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Train an image classifier, lose nothing, and ask it about photographs it has never seen.\n\n"
         "New here? `catdog demo` shows everything once. `catdog up` starts the service.",
)
for command in (up.up, train.train, run.run, predict.predict, config.config, demo.demo):
    app.command()(command)
app.command(hidden=True)(run.rank)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(doctor.app, name="doctor")


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
