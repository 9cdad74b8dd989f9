"""TrainConfig: what a run is. The same frozen value in the HTTP body, the job record, the run folder and the model package."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from catdog import catalogue
from catdog.errors import BadConfig
from catdog.images import Geometry

DATASET_ID = r"^ds_[0-9a-f]{32}$"


class Publish(BaseModel):
    """What becomes of the model when the run has succeeded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = Field("champion", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="The alias that predictions ask for.")
    promote: Literal["auto", "never"] = Field("auto", description="auto: the alias moves to the new model. never: it stays where it is.")


class TrainConfig(BaseModel):
    """What a run is. Defaults that depend on the network are filled in when it is read, so the record shows every value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(pattern=DATASET_ID, description="The id of the data set to train on.")
    model: str = Field("efficientnet_lite0", description="The network, a name of the catalogue (`catdog models list`).")
    weights: Literal["imagenet", "none"] = Field(
        default_factory=lambda data: "imagenet" if catalogue.has_weights(data.get("model")) else "none",
        description="Where the network starts: imagenet (pretrained) or none (random). By default pretrained where weights exist.",
    )
    trainable: Literal["head", "all"] = Field(
        default_factory=lambda data: "head" if data.get("weights") == "imagenet" else "all",
        description="What is trained: head keeps the pretrained backbone frozen. By default head when pretrained, else all.",
    )
    image_size: int = Field(
        default_factory=lambda data: catalogue.image_size(data.get("model")),
        ge=16, le=1024,
        description="Side of the square picture the network sees, in pixels. By default what the network was made for.",
    )
    geometry: Geometry = Field(
        "resize_crop",
        description="How a picture of any shape becomes the square: resize_crop (its middle, resized), center_crop (its middle pixels as "
        "they are), letterbox (all of it, with bars) or stretch (all of it, distorted). The model package remembers it.",
    )
    augment: Literal["none", "light", "default", "strong"] = Field(
        default_factory=lambda data: "none" if data.get("trainable") == "head" else "default",
        description="How much the pictures of train are varied anew in every epoch. By default none for a head, whose features are "
        "computed once, else default.",
    )
    balance: Literal["natural", "downsample", "weighted", "sampler"] = Field(
        "natural",
        description="What is done where labels have unequally many pictures: natural (nothing), downsample (all get as few as the "
        "smallest), weighted (a rare label's loss counts more) or sampler (its pictures come more often). val and test stay as they are.",
    )
    n_train: int | None = Field(
        None, ge=2, description="Draw only so many pictures of the training split, as many of each label as possible. By default all.",
    )
    n_val: int | None = Field(None, ge=2, description="The same for the validation split.")
    n_test: int | None = Field(None, ge=2, description="The same for the test split.")
    epochs: int = Field(
        default_factory=lambda data: 40 if data.get("trainable") == "head" else 10,
        ge=1, le=1000,
        description="Passes over the training split. By default 40 for a head, 10 for a whole network.",
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Images in one optimizer step; the last batch of an epoch may be smaller.")
    learning_rate: float = Field(
        default_factory=lambda data: 3e-3 if data.get("trainable") == "head" else 3e-4,
        gt=0, le=10,
        description="The highest step size of AdamW. By default 0.003 for a head, 0.0003 for a whole network.",
    )
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's decoupled weight decay, on matrices and kernels only.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="How learning_rate moves: down to zero along a cosine, or not.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which learning_rate rises linearly from zero.")
    loss: Literal["cross_entropy", "bce_with_logits", "mse"] = Field("cross_entropy", description="What training makes small.")
    seed: int = Field(0, ge=0, lt=2**32, description="Decides first weights, order of images and dropout. The same seed repeats the run.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one.")
    publish: Publish = Field(default_factory=Publish, description="What becomes of the model.")

    @model_validator(mode="after")
    def _network_can_do_it(self) -> Self:
        catalogue.check(self.model, weights=self.weights, image_size=self.image_size)
        if self.trainable == "head" and self.weights == "none":
            raise BadConfig(
                "trainable=head needs a pretrained network. Received: weights=none.",
                field="trainable", remedy="Set trainable to all, or weights to imagenet.",
            )
        if self.trainable == "head" and self.augment != "none":
            raise BadConfig(
                f"augment={self.augment} needs trainable=all: what a frozen network makes of a picture is computed only once. "
                "Received: trainable=head.",
                field="augment", remedy="Set augment to none, or trainable to all.",
            )
        return self

    @classmethod
    def parse(cls, fields: Any) -> "TrainConfig":
        """Read a config from outside.

        Raises:
            BadConfig: the first field that is unknown, missing or out of range, or an unknown network.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "config"
            raise BadConfig(f"{field}: {first['msg']}. Received: {str(first['input'])[:200]!r}.", field=field) from error

    @classmethod
    def read(cls, run_folder: Path) -> "TrainConfig":
        """Read `config.json` of a run folder.

        Raises:
            BadConfig: there is none, or it is not a config.
        """
        path = run_folder / "config.json"
        try:
            text = path.read_text()
        except OSError as error:
            raise BadConfig(f"Expected a run folder with a config.json. Received: {run_folder}.", field="config") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadConfig(f"config.json: {error.errors(include_url=False)[0]['msg']}.", field="config") from error

    def write(self, run_folder: Path) -> None:
        """Write `config.json` into a run folder, which is made if it is missing."""
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "config.json").write_text(self.model_dump_json(indent=2) + "\n")
