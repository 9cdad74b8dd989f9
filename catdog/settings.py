"""Settings, wait_passively, ranks_here, mlflow_server: where this machine keeps things. The only file that touches the environment."""

import contextlib
import os
import re
import stat
import warnings
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from catdog.errors import BadSettings

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MIN_TOKEN_LENGTH = 16
"""Characters; a shorter token can be guessed by asking often enough."""
SECRETS = ("database_url", "redis_url")
"""Settings that may hold a password: no message repeats their value, and no run is told it."""
_SHARED = stat.S_ISGID | stat.S_IWGRP

# ONNX Runtime's wheels report their use to their maker unless this is set before they are imported (1.32, Privacy.md beside it).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# So does MLflow's client (3.17, mlflow/telemetry/utils.py).
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


class Settings(BaseSettings):
    """One frozen value, read once at the start: CATDOG_* variables, then files of such names in `secrets_folder`, then defaults.

    Never stored in a job, never sent.
    """

    model_config = SettingsConfigDict(env_prefix="CATDOG_", frozen=True, extra="ignore", hide_input_in_errors=True)

    secrets_folder: ClassVar[Path] = Path("/run/secrets")
    """Where container engines mount secrets as files: catdog_database_url holds what CATDOG_DATABASE_URL would."""

    data_dir: Path = Field(Path("catdog-data"), description="The folder that holds everything: database, data sets, runs, models.")
    weights_dir: Path | None = Field(None, description="Where fetched pretrained weights lie; DATA_DIR/weights when unset.")
    host: str = Field("127.0.0.1", description="The address the service binds. Any other than loopback needs token_file.")
    port: int = Field(8000, ge=0, le=65535, description="The port the service binds; 0 takes a free one.")
    token_file: Path | None = Field(None, description="A file whose first line is the token that clients send as Bearer.")
    allowed_hosts: str = Field("", description="Further Host names the service answers to, separated by commas.")
    database_url: str | None = Field(None, description="SQLAlchemy URL of the job record; SQLite in DATA_DIR when unset.")
    redis_url: str | None = Field(None, description="The broker; `catdog up` starts its own Redis when unset.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="What runs compute on here; cuda demands a GPU that answers.")
    cpu_fallback: bool = Field(False, description="1: where device is cuda and no GPU answers, runs compute on the CPU all the same.")
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a supervisor renews the lease of its job.")
    lease_seconds: float = Field(30.0, gt=0, description="A lease not renewed for so long is taken back.")
    sweep_seconds: float = Field(5.0, gt=0, description="How often the reconciler looks for lost leases and messages.")
    stop_grace_seconds: float = Field(20.0, gt=0, description="From SIGTERM to SIGKILL of a run.")
    idle_limit_seconds: float = Field(60.0, gt=0, description="A worker that claims nothing for so long while jobs wait restarts.")
    run_niceness: int = Field(19, ge=0, le=19, description="How far runs step back behind predictions and all else; 0: not at all.")
    time_limit_seconds: float = Field(86_400.0, gt=0, description="The longest a run may take on this machine.")
    decoders: int = Field(0, ge=0, description="Processes that decode uploaded pictures; 0 means one per core, 16 at most.")
    decode_seconds: float = Field(5.0, gt=0, description="A picture that takes longer to decode is refused.")
    max_predictions: int = Field(256, gt=0, description="Pictures that may wait for their answer; the next is turned away at once.")
    max_predictions_bytes: int = Field(
        512 * 2**20, gt=0, description="The most bytes that the requests for predictions under way take together; the next is turned away.",
    )
    predict_seconds: float = Field(10.0, gt=0, description="A picture that has no answer after so long is turned away.")
    max_image_bytes: int = Field(20 * 2**20, gt=0, description="The largest picture accepted, in bytes.")
    max_batch_files: int = Field(64, gt=0, description="The most pictures accepted in one request.")
    max_batch_bytes: int = Field(64 * 2**20, gt=0, description="The most bytes that the pictures of one request have together.")
    max_json_bytes: int = Field(64 * 2**10, gt=0, description="The largest JSON body accepted, in bytes.")
    max_archive_bytes: int = Field(2 * 2**30, gt=0, description="The largest data set archive accepted, in bytes.")
    max_unpacked_bytes: int = Field(10 * 2**30, gt=0, description="The most bytes an archive may unpack to.")
    max_archive_files: int = Field(100_000, gt=0, description="The most files an archive may hold.")
    cache_bytes: int = Field(20 * 2**30, ge=0, description="The most bytes of decoded pictures kept for later epochs; 0 keeps none.")

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "" and info.field_name != "allowed_hosts":
            raise ValueError("Expected a value. Received: an empty one; give it one or leave it out")
        return value

    @field_validator("data_dir", "weights_dir", "token_file")
    @classmethod
    def _has_a_home(cls, path: Path | None) -> Path | None:
        try:
            return path and path.expanduser()
        except RuntimeError as error:  # a container's user may have neither HOME nor an entry in passwd
            raise ValueError(f"Expected a path without ~, as this user has no home folder. Received: {path}") from error

    @field_validator("redis_url")
    @classmethod
    def _is_a_broker(cls, url: str | None) -> str | None:
        if url is not None and not _reads_as_redis(url):
            raise ValueError("Expected redis://[:PASSWORD@]HOST[:PORT][/NUMBER], rediss://… or redis+socket:///PATH. Received: another URL")
        return url

    @model_validator(mode="after")
    def _folder_can_stand_in_a_url(self) -> Self:
        if "?" in str(self.root):
            raise ValueError(f"Expected a data folder without a question mark in its path. Received: {self.root}")
        return self

    @model_validator(mode="after")
    def _door_is_closed(self) -> Self:
        if not self.on_loopback and self.token_file is None:
            raise ValueError(f"Expected CATDOG_TOKEN_FILE for a bind beyond loopback. Received: host={self.host!r} and no token file")
        return self

    @classmethod
    def load(cls, *, secrets: bool = True, **overrides: object) -> "Settings":
        """Read environment and secrets; `overrides` (command line options) win. `secrets=False`: for a process that needs none.

        A secrets folder that this user may not list belongs to somebody else and is left alone.

        Raises:
            BadSettings: a value is out of range, a secret cannot be read, or the combination is unsafe.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        folder = cls.secrets_folder if secrets and os.access(cls.secrets_folder, os.R_OK | os.X_OK) else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # how the library says that a secret is no file
                return cls(_secrets_dir=folder, **given)
        except ValidationError as error:
            raise BadSettings(" ".join(_line(detail["loc"], detail["msg"], detail["input"]) for detail in error.errors())) from None
        except (SettingsError, UserWarning) as error:
            cause = error.__cause__ or error  # the library's own names the field, the cause names the file
            reason = f"{cause.filename} ({cause.strerror})" if isinstance(cause, OSError) else f"{error}, {cause}".rstrip(".")
            raise BadSettings(
                f"Expected secrets that are text files this process may read. Received: {reason}.",
                remedy=f"Let uid {os.geteuid()} or gid {os.getegid()} read the file: in a container it has the mode it has on the host.",
            ) from None

    def origin(self, name: str) -> str:
        """Where the value of a setting came from: environment, file or default."""
        if name not in self.model_fields_set:
            return "default"
        return "environment" if f"CATDOG_{name.upper()}" in map(str.upper, os.environ) else "file"

    def shown(self, name: str) -> str:
        """The value of a setting for people to read: without the password that a URL may hold."""
        value = str(getattr(self, name))
        if name not in SECRETS:
            return value
        return re.sub(r"([?&][^=&]*password[^=&]*=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*:).*@", r"\1***@", value), flags=re.IGNORECASE)

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
        return self.data_dir.resolve()

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
        return (self.weights_dir or self.root / "weights").resolve()

    @property
    def cache(self) -> Path:
        """Decoded pictures, which can be made again at any time."""
        return self.root / "cache"

    @property
    def database(self) -> str:
        """The job record's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.root / 'catdog.sqlite'}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The data folders, the one that holds the others first."""
        return self.root, self.datasets, self.runs, self.models

    def make_folders(self) -> None:
        """Create the data folders; where the outermost has the setgid bit and is writable by its group, everything is made for that group.

        So containers with different users of one group may share it. The whole process's umask is set to 0o007 for that.

        Raises:
            BadSettings: one of them cannot be made or written, or everybody may write into it.
        """
        for folder in self.folders:
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o770 if self._is_shared else 0o750)
            except OSError as error:
                raise BadSettings(
                    f"Expected a folder that can be made. Received: {folder} ({error.strerror}) in {described(nearest(folder.parent))}.",
                    remedy="Set CATDOG_DATA_DIR to a folder this user may write into.",
                ) from error
            check_folder(folder)
            if folder == self.root and self._is_shared:
                os.umask(0o007)
        if self._is_shared and self.database_url is None:
            with contextlib.suppress(FileExistsError):  # SQLite would make it with 0644; its journals get the mode that it has
                (self.root / "catdog.sqlite").touch(exist_ok=False)

    @property
    def _is_shared(self) -> bool:
        return nearest(self.root) == self.root and self.root.stat().st_mode & _SHARED == _SHARED

    def environment(self) -> dict[str, str]:
        """This process's environment with these settings in it: for service and worker, which must see the same ones."""
        values = self.model_dump(exclude_none=True) | {"data_dir": self.root}
        return dict(os.environ) | {f"CATDOG_{name.upper()}": str(value) for name, value in values.items()}

    def token(self) -> str | None:
        """The token that clients must show: the first line of the token file; None where no file is named.

        Raises:
            BadSettings: the file cannot be read, or the token is missing or too short.
        """
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text().partition("\n")[0].strip()
        except (OSError, ValueError) as error:
            raise BadSettings(
                f"CATDOG_TOKEN_FILE: Expected a text file that uid {os.geteuid()} may read. Received: {self.token_file} ({error}).",
            ) from error
        if len(token) < MIN_TOKEN_LENGTH:
            raise BadSettings(
                f"CATDOG_TOKEN_FILE: Expected a token of at least {MIN_TOKEN_LENGTH} characters in the first line of {self.token_file}. "
                f"Received: {len(token)}.",
                remedy="Write a longer one into it, such as the output of `openssl rand -hex 32`.",
            )
        return token

    @property
    def authorization(self) -> dict[str, str]:
        """The header that opens this machine's own service, empty where it needs none."""
        token = self.token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def run_environment(self) -> dict[str, str]:
        """The environment of a run: of the CATDOG_* variables its folders and device alone, nothing of database, Redis or tokens."""
        others = {name: value for name, value in os.environ.items() if not name.upper().startswith("CATDOG_")}
        return others | {
            "CATDOG_DATA_DIR": str(self.root), "CATDOG_WEIGHTS_DIR": str(self.weights),
            "CATDOG_DEVICE": self.device, "CATDOG_CPU_FALLBACK": str(self.cpu_fallback), "CATDOG_CACHE_BYTES": str(self.cache_bytes),
        }

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


def ranks_here() -> int:
    """How many processes on this machine share the training that this one takes part in, as torchrun has told it; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def mlflow_server() -> tuple[str, str] | None:
    """Where MLflow's own variables say that runs are traced, and the experiment; None where they do not.

    Call it before mlflow is imported: its client, which tries for minutes by default, is told to give up soon unless it is told otherwise.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return None
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(name, value)
    return uri, os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or "catdog"


def check_folder(folder: Path) -> None:
    """See that this process may work in a folder, and that not everybody may.

    Raises:
        BadSettings: it cannot be written or listed, or it is writable by everybody.
    """
    if folder.stat().st_mode & stat.S_IWOTH:
        raise BadSettings(
            f"Expected a folder that not everybody may write into. Received: {described(folder)}.", remedy=f"Run: chmod o-w {folder}",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise BadSettings(
            f"Expected a folder that uid {os.geteuid()} of gid {os.getegid()} may write into. Received: {described(folder)}.",
            remedy=f"Run as its owner or root: chown {os.geteuid()}:{os.getegid()} {folder}. Or set CATDOG_DATA_DIR to another folder.",
        )


def nearest(folder: Path) -> Path:
    """The folder itself, or the innermost one around it that is there and can be seen."""
    for one in (folder, *folder.parents):
        with contextlib.suppress(OSError):  # a folder that may not be entered hides what it holds
            if one.is_dir():
                return one
    return Path("/")


def described(folder: Path) -> str:
    """A folder with its owner and mode, for people to read: `/data (owner 10001:0, mode 2770)`."""
    facts = folder.stat()
    mounted = ", mounted read-only" if os.statvfs(folder).f_flag & os.ST_RDONLY else ""
    return f"{folder} (owner {facts.st_uid}:{facts.st_gid}, mode {stat.S_IMODE(facts.st_mode):04o}{mounted})"


def _reads_as_redis(url: str) -> bool:
    """Whether kombu, which carries the messages, would find a Redis in it."""
    try:
        parts = urlsplit(url)
        number = parts.path.strip("/")
        if parts.scheme == "redis+socket":
            return not parts.netloc.rpartition("@")[2] and len(number) > 0
        return parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0 and (not number or number.isdecimal())
    except ValueError:  # a port that is no number
        return False


def _line(location: tuple[int | str, ...], message: str, received: object) -> str:
    """One sentence about a value. pydantic's own say what is expected; ours also what came."""
    sentence = message.removeprefix("Value error, ").replace("Input should be", "Expected")
    if not location:
        return f"{sentence}."
    name = "_".join(map(str, location))
    came = "" if "Received" in sentence or name in SECRETS else f". Received: {received!r}"
    return f"CATDOG_{name.upper()}: {sentence}{came}."
