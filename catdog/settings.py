"""Settings, wait_passively: where this machine keeps things, and its limits. The only file that touches the environment."""

import os
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from catdog.errors import BadSettings

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Settings(BaseSettings):
    """One frozen value, read once at the start from CATDOG_* variables. Never stored in a job, never sent."""

    model_config = SettingsConfigDict(env_prefix="CATDOG_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path("catdog-data"), description="The folder that holds everything: database, data sets, runs, models.")
    weights_dir: Path | None = Field(None, description="Where fetched pretrained weights lie; DATA_DIR/weights when unset.")
    host: str = Field("127.0.0.1", description="The address the service binds. Any other than loopback needs token_file.")
    port: int = Field(8000, ge=0, le=65535, description="The port the service binds; 0 takes a free one.")
    token_file: Path | None = Field(None, description="A file whose first line is the token that clients send as Bearer.")
    allowed_hosts: str = Field("", description="Further Host names the service answers to, separated by commas.")
    database_url: str | None = Field(None, description="SQLAlchemy URL of the job record; SQLite in DATA_DIR when unset.")
    redis_url: str | None = Field(None, description="The broker; `catdog up` starts its own Redis when unset.")
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a supervisor renews the lease of its job.")
    lease_seconds: float = Field(30.0, gt=0, description="A lease not renewed for so long is taken back.")
    sweep_seconds: float = Field(5.0, gt=0, description="How often the reconciler looks for lost leases and messages.")
    stop_grace_seconds: float = Field(20.0, gt=0, description="From SIGTERM to SIGKILL of a run.")
    idle_limit_seconds: float = Field(60.0, gt=0, description="A worker that claims nothing for so long while jobs wait restarts.")
    time_limit_seconds: float = Field(86_400.0, gt=0, description="The longest a run may take on this machine.")
    decoders: int = Field(0, ge=0, description="Processes that decode uploaded pictures; 0 means one per core.")
    decode_seconds: float = Field(5.0, gt=0, description="A picture that takes longer to decode is refused.")
    max_image_bytes: int = Field(20 * 2**20, gt=0, description="The largest picture accepted, in bytes.")
    max_json_bytes: int = Field(64 * 2**10, gt=0, description="The largest JSON body accepted, in bytes.")
    max_archive_bytes: int = Field(2 * 2**30, gt=0, description="The largest data set archive accepted, in bytes.")
    max_unpacked_bytes: int = Field(10 * 2**30, gt=0, description="The most bytes an archive may unpack to.")
    max_archive_files: int = Field(100_000, gt=0, description="The most files an archive may hold.")

    @model_validator(mode="after")
    def _folder_can_stand_in_a_url(self) -> Self:
        if "?" in str(self.root):
            raise ValueError(f"a data folder without a question mark in its path. Received: {self.root}")
        return self

    @model_validator(mode="after")
    def _door_is_closed(self) -> Self:
        if not self.on_loopback and self.token_file is None:
            raise ValueError(f"a bind beyond loopback needs CATDOG_TOKEN_FILE. Received: host={self.host!r} and no token file")
        return self

    @classmethod
    def load(cls, **overrides: object) -> "Settings":
        """Read the environment; `overrides` (command line options) win.

        Raises:
            BadSettings: a value is out of range, or the combination is unsafe.
        """
        try:
            return cls(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            raise BadSettings("; ".join(f"{_variable(detail['loc'])}: {detail['msg']}" for detail in error.errors()) + ".") from error

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @cached_property
    def root(self) -> Path:
        """The data folder, absolute."""
        return self.data_dir.expanduser().resolve()

    @property
    def datasets(self) -> Path:
        """One folder a data set, named by its id."""
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        """One folder a job, named by its id."""
        return self.root / "runs"

    @property
    def models(self) -> Path:
        """One folder a published package, named by its digest."""
        return self.root / "models"

    @property
    def weights(self) -> Path:
        """Fetched pretrained weights."""
        return (self.weights_dir or self.root / "weights").expanduser().resolve()

    @property
    def database(self) -> str:
        """The job record's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.root / 'catdog.sqlite'}"

    def make_folders(self) -> None:
        """Create the data folders.

        Raises:
            BadSettings: one of them cannot be written.
        """
        for folder in (self.root, self.datasets, self.runs, self.models):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            except OSError as error:
                raise BadSettings(f"Expected a folder that can be made. Received: {folder} ({error.strerror}).") from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise BadSettings(f"Expected a writable folder. Received: {folder}.", remedy="Set CATDOG_DATA_DIR to a folder you own.")

    def environment(self) -> dict[str, str]:
        """This process's environment with these settings in it: for service and worker, which must see the same ones."""
        values = self.model_dump(exclude_none=True) | {"data_dir": self.root}
        return dict(os.environ) | {f"CATDOG_{name.upper()}": str(value) for name, value in values.items()}

    @property
    def authorization(self) -> dict[str, str]:
        """The header that opens this machine's own service, empty where it needs none."""
        return {"Authorization": f"Bearer {self.token_file.read_text().splitlines()[0].strip()}"} if self.token_file else {}

    def run_environment(self) -> dict[str, str]:
        """The environment of a run: of the CATDOG_* variables its folders alone, nothing of database, Redis or tokens."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("CATDOG_")}
        return others | {"CATDOG_DATA_DIR": str(self.root), "CATDOG_WEIGHTS_DIR": str(self.weights)}

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """CATDOG_* variables that are no setting: most often a typing mistake."""
        known = {f"CATDOG_{name.upper()}" for name in cls.model_fields}
        return sorted(name for name in os.environ if name.startswith("CATDOG_") and name not in known)


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait. Call it before torch is imported, which is when OpenMP looks.

    By default they spin, which is quick on idle cores and ruinous on shared ones: six epochs of SqueezeNet on 2 cores that
    four busy processes share took 78 s spinning and 3 s sleeping (torch 2.15).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _variable(location: tuple[int | str, ...]) -> str:
    return f"CATDOG_{'_'.join(map(str, location)).upper()}" if location else "settings"
