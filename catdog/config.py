"""TrainConfig, RunConfig: what a run is. The same frozen value in the HTTP body, the job record, the run folder and the model package."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from catdog import catalogue
from catdog.errors import BadConfig
from catdog.images import MAX_IMAGE_SIZE, Geometry

DATASET_ID = r"^ds_[0-9a-f]{32}$"
BATCH_SIZE = 32
"""Where a config leaves it open."""
AND = " and "
"""Between the fields of a config that have ended a training, in its stop_reason."""
Glob = Annotated[str, Field(min_length=1, max_length=200)]
REMAINS = (
    "dataset", "model", "weights", "trainable", "image_size", "geometry", "augment", "views", "balance", "n_train", "n_val", "n_test",
    "n_train_eval", "batch_size", "optimizer", "ema", "loss", "best_by", "seed",
)
"""What a resumed run has in common with the run it goes on from: without it the checkpoint would mean something else."""


class Publish(BaseModel):
    """What becomes of the model when the run has succeeded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = Field("champion", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="The alias that predictions ask for.")
    promote: Literal["auto", "never"] = Field(
        "auto", description="auto: the alias moves to the new model, if that is no worse than the one before. never: it stays where it is.",
    )


class RunConfig(BaseModel):
    """What a run is told, whatever its kind: one frozen value in the HTTP body, the job record and the run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, fields: Any) -> Self:
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
    def read(cls, run_folder: Path) -> Self:
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


class TrainConfig(RunConfig):
    """What a run is. Defaults that depend on the network are filled in when it is read, so the record shows every value."""

    dataset: str = Field(pattern=DATASET_ID, description="The id of the data set to train on.")
    model: str = Field("efficientnet_lite0", description="The network, a name of the catalogue (`catdog models list`).")
    weights: Literal["imagenet", "none"] = Field(
        default_factory=lambda data: "imagenet" if catalogue.has_weights(data.get("model")) else "none",
        description="Where the network starts: imagenet (pretrained) or none (random). By default pretrained where weights exist.",
    )
    trainable: str | tuple[Glob, ...] = Field(
        default_factory=lambda data: "head" if data.get("weights") == "imagenet" else "all",
        description="What is trained: head (the last layer), all, stages:N (the last N stages and the head), or a list of patterns of "
        "parameter names such as backbone.layer4.*; the rest stays as it is. By default head when pretrained, else all.",
    )
    head_epochs: int = Field(
        0, ge=0, le=1000, description="Epochs at the beginning in which only the head is trained, before what trainable says is.",
    )
    image_size: int = Field(
        default_factory=lambda data: catalogue.image_size(data.get("model")),
        ge=16, le=MAX_IMAGE_SIZE,
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
    views: int = Field(
        default_factory=lambda data: 4 if data.get("trainable") == "head" and data.get("augment") != "none" else 1,
        ge=1, le=100,
        description="Where the backbone is frozen and augment is not none: so many varied views of each picture have their features "
        "computed once, and the epochs take turns with them. By default 4, else 1.",
    )
    mixup: float = Field(0.0, ge=0, le=10, description="Alpha of mixup: pairs of pictures are blended; 0 for none, 0.2 is usual.")
    cutmix: float = Field(0.0, ge=0, le=10, description="Alpha of CutMix: a part of a picture is another one's; 0 for none, 1 is usual.")
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
    n_train_eval: int | None = Field(
        None, ge=0,
        description="After each epoch so many pictures of train, always the same, are measured as those of val are, so that the two can be "
        "compared; 0 for none. By default as many as val has.",
    )
    epochs: int = Field(
        default_factory=lambda data: 40 if data.get("trainable") == "head" else 10,
        ge=1, le=1000,
        description="Passes over the training split. By default 40 for a head, 10 for a whole network.",
    )
    batch_size: int | None = Field(
        None, ge=1, le=4096,
        description=f"Images in one optimizer step; the last batch of an epoch may be smaller. By default {BATCH_SIZE}, or all there are.",
    )
    micro_batch: int | None = Field(
        None, ge=1, le=4096,
        description="Images that go through the network at once; the gradients of a batch are summed over its micro-batches. By default "
        "the whole batch. Where memory runs out it is halved up to three times by itself.",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov's momentum.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    learning_rate: float = Field(
        default_factory=lambda data: 3e-3 if data.get("trainable") == "head" else 3e-4,
        gt=0, le=10,
        description="The highest step size. By default 0.003 for a head, 0.0003 for more.",
    )
    backbone_lr: float | None = Field(
        None, gt=0, le=10, description="The highest step size of all but the head. By default learning_rate.",
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1,
        description="Each stage before the head has this times the step size of the stage behind it: the first layers move least.",
    )
    weight_decay: float = Field(0.01, ge=0, le=10, description="Decoupled weight decay, on matrices and kernels only.")
    clip_norm: float | None = Field(None, gt=0, description="The gradient is scaled down to this norm where it is longer.")
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="How learning_rate moves: down to zero along a cosine, down in steps, or not.",
    )
    step_epochs: int | None = Field(
        None, ge=1, le=1000, description="Epochs between two steps of schedule=step. By default a third of all.",
    )
    step_factor: float = Field(0.1, gt=0, lt=1, description="What a step of schedule=step multiplies learning_rate with.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which learning_rate rises linearly from zero; no more than there are.")
    loss: Literal["cross_entropy", "bce_with_logits", "mse"] = Field("cross_entropy", description="What training makes small.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target that is spread over all labels while training; nothing is measured with it.",
    )
    ema: float | None = Field(
        None, gt=0, lt=1,
        description="Keep the exponential moving average of the weights, with this decay per step such as 0.999; it is what is measured "
        "and published. By default none.",
    )
    best_by: Literal["loss", "accuracy", "balanced_accuracy", "f1", "auroc", "ece", "brier"] = Field(
        "loss", description="The measure of val that says which epoch is the best one.",
    )
    patience: int | None = Field(
        None, ge=1, le=1000, description="End when so many epochs in a row were not better than the best one. By default never.",
    )
    min_delta: float = Field(0.0, ge=0, description="By how much an epoch must be better to end the waiting of patience.")
    max_minutes: float | None = Field(
        None, gt=0, le=100_000, description="A budget for training: when it is used up the run goes on with the best epoch so far.",
    )
    save_minutes: float = Field(1.0, gt=0, le=1440, description="A checkpoint at least so often; each epoch ends with one anyway.")
    save_steps: int | None = Field(None, ge=1, description="And one after so many steps.")
    seed: int = Field(0, ge=0, lt=2**32, description="Decides first weights, order of images and dropout. The same seed repeats the run.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one.")
    devices: int = Field(1, ge=1, le=64, description="Processes that share each batch, one a GPU; on the CPU they only share the cores.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="What a GPU multiplies in; weights and sums stay float32. auto takes bfloat16 where the GPU has it.",
    )
    doctor: Literal["gate", "warn", "off"] = Field(
        "gate", description="What becomes of a run in which something is certainly wrong before it trains: gate refuses it, warn says it "
        "and goes on, off does not look.",
    )
    unused_ok: tuple[Glob, ...] = Field(
        (), max_length=100, description="Parts of a network of your own that are meant to do nothing, as patterns of their paths such as "
        "backbone.aux*: the doctor does not accuse them.",
    )
    compile: bool = Field(False, description="Let torch.compile translate the network first: minutes at the start, quicker steps.")
    quantise: Literal["auto", "never"] = Field(
        "auto", description="auto: where the run computes on the CPU a network in 8-bit integers is made too, and served where it is "
        "quicker and loses no more than half a point of val's accuracy, or one picture. never: the network is served as it was trained.",
    )
    target_precision: float = Field(
        0.95, ge=0, lt=1,
        description="Of the answers that the model gives, this share shall be right, by val: of a picture of which it is less sure it says "
        "none of the labels. 0: it is always sure enough. Pictures unlike those of train get none in any case.",
    )
    publish: Publish = Field(default_factory=Publish, description="What becomes of the model.")

    @field_validator("trainable")
    @classmethod
    def _names_a_part(cls, trainable: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not trainable or (isinstance(trainable, str) and not re.fullmatch(r"head|all|stages:[1-9][0-9]?", trainable)):
            raise ValueError("Expected head, all, stages:N or a list of patterns of parameter names")
        return trainable

    @model_validator(mode="after")
    def _network_can_do_it(self) -> Self:
        catalogue.check(self.model, weights=self.weights, image_size=self.image_size)
        if self.trainable == "head" and self.weights == "none":
            raise BadConfig(
                "trainable=head needs a pretrained network. Received: weights=none.",
                field="trainable", remedy="Set trainable to all, or weights to imagenet.",
            )
        if self.layer_decay is not None and self.backbone_lr is not None:
            raise BadConfig(
                f"Expected backbone_lr or layer_decay, as both say how fast the backbone learns. Received: {self.backbone_lr} and "
                f"{self.layer_decay}.", field="layer_decay", remedy="Leave one of them out.",
            )
        if self.head_epochs and (self.trainable == "head" or self.head_epochs >= self.epochs):
            raise BadConfig(
                f"head_epochs needs later epochs in which more than the head is trained. Received: head_epochs={self.head_epochs}, "
                f"trainable={self.trainable}, epochs={self.epochs}.", field="head_epochs", remedy="Set it to 0, or epochs higher.",
            )
        if self.micro_batch is not None and self.micro_batch > (self.batch_size or BATCH_SIZE):
            raise BadConfig(
                f"micro_batch: expected at most the batch_size of {self.batch_size or BATCH_SIZE}. Received: {self.micro_batch}.",
                field="micro_batch",
            )
        if 2 * self.devices > (self.batch_size or BATCH_SIZE) > 1 or (self.devices > 1 and self.micro_batch == 1):
            raise BadConfig(
                f"devices: expected two images at once for each of them. Received: {self.devices} devices, "
                f"batch_size={self.batch_size or BATCH_SIZE}, micro_batch={self.micro_batch}.", field="devices",
            )
        if (self.mixup or self.cutmix) and self.trainable == "head":
            raise BadConfig(
                "mixup and cutmix need pictures, and a frozen backbone has features. Received: trainable=head.",
                field="mixup" if self.mixup else "cutmix", remedy="Set them to 0, or trainable to all.",
            )
        return self

    def resumed(self, changes: dict[str, Any]) -> "TrainConfig":
        """The config of a run that goes on from this one's checkpoint, otherwise in some fields.

        Raises:
            BadConfig: a field of REMAINS would change, or the result cannot work.
        """
        config = self.changed(changes)
        for field in REMAINS:
            before, now = getattr(self, field), getattr(config, field)
            if before != now:
                raise BadConfig(
                    f"{field}: expected {before}, as in the run that is resumed. Received: {now}.", field=field,
                    remedy=f"Leave {field} out, or start a new training.",
                )
        return config

    def changed(self, changes: dict[str, Any]) -> "TrainConfig":
        """The same with other fields: null for a field's default, and what was derived from the network or its part is derived anew.

        A `publish` that says one of its fields leaves the other as it was.

        Raises:
            BadConfig: the result cannot work.
        """
        fields = self.model_dump(mode="json")
        if isinstance(publish := changes.get("publish"), dict):
            changes = changes | {"publish": fields["publish"] | publish}
        derived = [
            name for name, field in type(self).model_fields.items()
            if field.default_factory_takes_validated_data and field.default_factory(fields) == fields[name]  # type: ignore[call-arg, misc]
        ]
        merged = {name: value for name, value in fields.items() if name not in derived} | changes
        return TrainConfig.parse({name: value for name, value in merged.items() if value is not None})
