"""CatdogError and its children: the tree of everything that can go wrong.

    CatdogError
    ├── BadInput             the caller can mend it
    │   ├── BadImage         not an image, truncated, too many pixels, too small
    │   ├── ExplainUnavailable   this network cannot say where it looks
    │   ├── BadDataset       no images, one label, names that cannot be read   (offenders)
    │   └── BadConfig        unknown field, value out of range, unknown model  (field)
    │       └── WeightsUnavailable   the weights are not on this machine
    ├── TooLarge             more bytes than the limit                         (limit)
    ├── UnsupportedType      a format that is not on the list
    ├── Forbidden            no token, or the wrong one
    ├── NotFound             a job, version or data set that never existed
    ├── Conflict             the thing is not in a state that allows it
    │   └── NotPromoted      a model that may not take an alias over               (comparison)
    │       ├── CompareFirst     it was not compared with the one it would replace
    │       └── NotComparable    too few pictures say which of the two is better
    ├── NoModel              nothing has been published yet
    ├── Unavailable          a part of this machine cannot answer now
    │   └── Unreachable      a server elsewhere does not answer, or with something else
    ├── CorruptPackage       a file of a model package is missing or changed, or it answers otherwise than it did
    ├── BadSettings          this machine is set up in a way that cannot or must not run
    └── RunFailed            a run's own failure: recorded in the job, never an HTTP error
        ├── DatasetChanged   the data set is not the one the run began with
        ├── CorruptCheckpoint
        ├── NonFiniteLoss    (step)
        ├── RankFailed       one of several processes that train together (code)
        ├── NoDevice         this machine is for a GPU and none answers
        ├── Unhealthy        the doctor has found what is certainly wrong   (report)
        ├── TestSplitTouched a batch of the test split before the phase testing
        └── ExportMismatch   the exported network does not answer as the trained one

Every error carries `code` (a stable word), a message that says what was expected and what came, and `remedy` (what to do).
No HTTP here: the service holds the one table from error to status.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

FAILURES: dict[str, str] = {
    "config": "Correct the field the message names and send the job again.",
    "weights_unavailable": "Fetch the weights with `catdog models fetch NAME`, or set weights to none.",
    "dataset_changed": "Import the data set again and start a new job on it.",
    "doctor": "Read the findings of the job; each names its culprit and its remedy.",
    "non_finite_loss": "Lower learning_rate; look for broken pictures in the data set.",
    "out_of_memory": "Lower micro_batch, batch_size or image_size.",
    "disk_full": "Free disk space where the runs are kept and start the job again.",
    "device_error": "Look at the GPU's driver and log; set device to cpu to go on without it.",
    "time_limit": "Raise CATDOG_TIME_LIMIT_SECONDS, or train for fewer epochs.",
    "corrupt_package": "Ask another version, or train anew; GET /v1/models says which there are.",
    "worker_lost": "Read the job's log; the run died three times without getting further.",
    "internal": "Read the job's log and report it: this is a bug of catdog.",
}
"""The failure codes of a job, each with its general remedy. The one table for worker, run and service."""


class CatdogError(Exception):
    """The base of every error that catdog raises on purpose."""

    code: ClassVar[str] = "internal"
    default_remedy: ClassVar[str] = FAILURES["internal"]

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.default_remedy


class BadInput(CatdogError):
    """Raised when what came from outside is wrong in a way that its sender can mend."""

    code = "bad_input"
    default_remedy = "Correct the request and send it again."


class BadImage(BadInput):
    """Raised when bytes are not a whole, readable picture within the limits."""

    code = "bad_image"
    default_remedy = "Send one whole JPEG, PNG, WebP, GIF or BMP picture."


class ExplainUnavailable(BadInput):
    """Raised when a class activation map is wanted of a network that has none."""

    code = "explain_unavailable"
    default_remedy = "Ask without explain, or train a network that ends in global pooling and one linear layer, such as efficientnet_lite0."


class BadDataset(BadInput):
    """Raised when an archive or a folder cannot become a data set; `offenders` names up to 20 files."""

    code = "bad_dataset"
    default_remedy = "Correct the files and upload the data set again."

    def __init__(self, message: str, *, offenders: Sequence[str] = (), remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.offenders = list(offenders)[:20]


class BadConfig(BadInput):
    """Raised when a run is asked for that cannot work; `field` is the field of TrainConfig to change."""

    code = "config"
    default_remedy = FAILURES["config"]

    def __init__(self, message: str, *, field: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.field = field


class WeightsUnavailable(BadConfig):
    """Raised when the pretrained weights of a network are not on this machine."""

    code = "weights_unavailable"
    default_remedy = FAILURES["weights_unavailable"]


class TooLarge(CatdogError):
    """Raised when a body, an archive or a picture is over its limit (`limit`, in bytes, files or pixels)."""

    code = "too_large"
    default_remedy = "Send less; the limits are listed under /v1/system."

    def __init__(self, message: str, *, limit: int, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.limit = limit


class UnsupportedType(CatdogError):
    """Raised when a format is not on the list."""

    code = "unsupported_type"
    default_remedy = "Send JPEG, PNG, WebP, GIF or BMP pictures, and data sets as zip."


class Forbidden(CatdogError):
    """Raised when a request shows no token, or the wrong one."""

    code = "unauthorized"
    default_remedy = "Send the service's token as `Authorization: Bearer TOKEN`."


class NotFound(CatdogError):
    """Raised when a job, a model version or a data set never existed."""

    code = "not_found"
    default_remedy = "List what exists with a GET of the collection."


class Conflict(CatdogError):
    """Raised when a thing is not in a state that allows what was asked."""

    code = "conflict"
    default_remedy = "Look at the current state with GET and decide anew."


class NotPromoted(Conflict):
    """Raised when a model may not take an alias over: it is worse, has other labels, or does not repeat its golden answers.

    `comparison` has both accuracies and the p value, where the two were compared.
    """

    code = "not_promoted"
    default_remedy = "Leave the champion at work, or send force: true, which the alias's history records."

    def __init__(self, message: str, *, comparison: Mapping[str, Any] | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.comparison = comparison


class CompareFirst(NotPromoted):
    """Raised when a model would replace a champion that it was not compared with, or not since the alias moved."""

    code = "compare_first"
    default_remedy = "POST /v1/models/VERSION/compare, wait for that job's end, and ask again; force: true does without."


class NotComparable(NotPromoted):
    """Raised when a model and the champion have too few pictures in common that neither was made with."""

    code = "not_comparable"
    default_remedy = "Train on a data set with a larger test split, or send force: true, which the alias's history records."


class NoModel(CatdogError):
    """Raised when a prediction is asked for and nothing has been published yet."""

    code = "no_model"
    default_remedy = "Train one: upload a data set to /v1/datasets, then POST /v1/jobs."


class Unavailable(CatdogError):
    """Raised when a part of this machine cannot answer now but will."""

    code = "unavailable"
    default_remedy = "Try again in a few seconds."


class Unreachable(Unavailable):
    """Raised when what lies on a server elsewhere cannot be had from here; waiting alone does not mend it."""

    default_remedy = "Look at the network and try again."


class BadSettings(CatdogError):
    """Raised when this machine is set up in a way that cannot, or for safety must not, run."""

    code = "settings"
    default_remedy = "Look at `catdog config`: each setting, its value, and where it came from."


class RunFailed(CatdogError):
    """The base of a run's own failures; `code` is one of FAILURES."""

    code = "internal"


class DatasetChanged(RunFailed):
    """Raised when the data set on disk is not the one its record, or the run's checkpoint, was made from."""

    code = "dataset_changed"
    default_remedy = FAILURES["dataset_changed"]


class CorruptCheckpoint(RunFailed):
    """Raised when a checkpoint does not match its manifest."""


class NonFiniteLoss(RunFailed):
    """Raised before the update when the loss of step `step` is not a finite number; the weights are unchanged."""

    code = "non_finite_loss"
    default_remedy = FAILURES["non_finite_loss"]

    def __init__(self, message: str, *, step: int, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.step = step


class RankFailed(RunFailed):
    """Raised when one of several processes that train together failed; `code` is what it said, one of FAILURES."""

    def __init__(self, message: str, *, code: str = "internal", remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy or FAILURES[code])
        self.code = code  # type: ignore[misc]  # of the class elsewhere


class Unhealthy(RunFailed):
    """Raised when the doctor has found what is certainly wrong; `report` is its doctor.Report."""

    code = "doctor"
    default_remedy = FAILURES["doctor"]

    def __init__(self, message: str, *, report: object, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.report = report


class NoDevice(RunFailed):
    """Raised when a run must compute on a GPU (CATDOG_DEVICE=cuda) and there is none that torch can use."""

    code = "device_error"
    default_remedy = (
        "Look at the driver (nvidia-smi) and whether the container was given the GPU; "
        "or set CATDOG_CPU_FALLBACK=1 or CATDOG_DEVICE=cpu to train on the CPU."
    )


class TestSplitTouched(RunFailed):
    """Raised when a batch of the test split is asked for before the phase `testing`: a bug of catdog, which the run must not survive."""

    __test__ = False  # its name is no test's


class ExportMismatch(RunFailed):
    """Raised when the exported network's logits differ from the trained network's on the golden pictures."""


class CorruptPackage(CatdogError):
    """Raised when a model package has a missing or changed file, or does not repeat its golden logits."""

    code = "corrupt_package"
    default_remedy = "Train again, or point the alias at another version."
