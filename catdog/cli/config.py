"""config: each setting of this machine, as it is."""

from catdog.cli.terminal import out
from catdog.settings import Settings


def config() -> None:
    """Show each setting, its value, and where it came from."""
    settings = Settings.load()
    for name, field in Settings.model_fields.items():
        out.print(f"CATDOG_{name.upper()} = {settings.shown(name)}  ({settings.origin(name)})\n    {field.description}", soft_wrap=True)
