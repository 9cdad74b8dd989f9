"""Kind, TRAININGS, PredictConfig, CompareConfig, config_of, phases: the kinds of jobs: what each is told, and what it does."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from catdog.config import DATASET_ID, RunConfig, TrainConfig
from catdog.errors import BadConfig
from catdog.settings import Settings

if TYPE_CHECKING:
    from catdog.progress import Progress

Kind = Literal["train", "examine", "predict", "compare"]
TRAININGS = ("train", "examine")
"""Whose config is a TrainConfig: what one of them was told, the other can be."""


class PredictConfig(RunConfig):
    """What a bulk prediction is told."""

    dataset: str = Field(min_length=1, description="The id of a data set; on the command line also the path of a folder of pictures.")
    split: Literal["train", "val", "test"] | None = Field(None, description="Only the pictures of this split of the data set.")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of the package.json of the model that answers.")
    package: Path | None = Field(None, description="Where the package lies, if not among the published ones.")
    model: int | None = Field(None, description="The number of its version, if it has one.")


class CompareConfig(RunConfig):
    """What a comparison is told: two model versions, and the data set whose test split they answer."""

    dataset: str = Field(pattern=DATASET_ID, description="The id of the data set that the challenger was tested on.")
    challenger: int = Field(ge=1, description="The version that would take the alias over.")
    champion: int = Field(ge=1, description="The version that the alias points to.")


_CONFIGS: Mapping[str, type[RunConfig]] = {
    "train": TrainConfig, "examine": TrainConfig, "predict": PredictConfig, "compare": CompareConfig,
}


def config_of(kind: str, fields: Any) -> RunConfig:
    """The config of a job of that kind.

    Raises:
        BadConfig: an unknown kind, or not its config.
    """
    if kind not in _CONFIGS:
        raise BadConfig(f"Expected a kind of job among {', '.join(_CONFIGS)}. Received: {kind}.", field="config")
    return _CONFIGS[kind].parse(fields)


def phases(
    kind: Kind, folder: Path, settings: Settings, *, fence: int, resume_from: Path | None, challenger: Path | None, champion: Path | None,
) -> Generator["Progress"]:
    """Work through a run folder; a kind imports what it needs when it is asked for.

    `challenger` and `champion` are model packages: `compare` needs both, `train` compares its own with the champion's if there is one.
    """
    match kind:
        case "train":
            from catdog import run

            return run.run(folder, settings, fence=fence, resume_from=resume_from, champion=champion)
        case "examine":
            from catdog import examination

            return examination.examine(folder, settings)
        case "predict":
            from catdog import predictions

            return predictions.predict(folder, settings, fence=fence)
        case "compare":
            from catdog import contest

            return contest.compare(folder, settings, challenger=challenger, champion=champion)
