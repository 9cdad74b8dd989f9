"""M06 to M14: each is found where it is, by its line, and no healthy trick is taken for one."""

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision import models as zoo

from catdog import models
from catdog.doctor import Data, DataSplit, Intent, Patient, Report
from catdog.doctor import model as organ
from catdog.doctor.examination import CannotTell
from catdog.doctor.model import branches, parity
from catdog.doctor.model.redraw import settle
from catdog.doctor.visit import visit

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.tensor([0, 1] * 4)
IMAGES = functional.interpolate(torch.randn(8, 3, 5, 5, generator=GENERATOR), (32, 32), mode="bicubic")

EXAMINATIONS = [one for one in organ.EXAMINATIONS if one not in branches.EXAMINATIONS]


class Tokens(nn.Module):
    """The smallest network with everything that is wrong below: patches, mixing, a branch, dropout, a head that starts at zero."""

    def __init__(self, labels: int = 2, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([self.block(width) for _ in range(2)])
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, labels)
        nn.init.zeros_(self.head.weight)

    def block(self, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def tokens(self, images: Tensor) -> Tensor:
        return self.norm(self.embed(images).flatten(2).transpose(1, 2))

    def mix(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return tokens

    def features(self, images: Tensor) -> Tensor:
        return self.drop(self.mix(self.tokens(images)).mean(dim=1))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images))


class InAList(Tokens):
    def __init__(self) -> None:
        super().__init__()
        del self.blocks
        self.blocks = [self.block(24) for _ in range(2)]  # type: ignore[assignment]  # in a list


class InAClosure(Tokens):
    def __init__(self) -> None:
        super().__init__()
        block = self.block(24)

        def extra(tokens: Tensor) -> Tensor:
            return block(tokens)

        self.extra = extra  # in a closure

    def mix(self, tokens: Tensor) -> Tensor:
        return super().mix(tokens) + self.extra(tokens)


class PlainTensor(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.position = torch.zeros(1, 16, 24, requires_grad=True)  # a plain tensor

    def tokens(self, images: Tensor) -> Tensor:
        return super().tokens(images) + self.position


class Sigmoid(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(images))  # squashed


class Softmax(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)  # squashed


class InPlace(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sigmoid_()  # squashed


class SoftmaxByHand(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        raised = super().forward(images).exp()
        return raised / raised.sum(dim=1, keepdim=True)  # squashed


class TanhHead(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(super().forward(images))  # squashed


class AlwaysDropping(Tokens):
    def features(self, images: Tensor) -> Tensor:
        return functional.dropout(super().features(images), 0.5)  # always active


class NeverInEvaluation(Tokens):
    def eval(self) -> "NeverInEvaluation":
        return self


class DropsNothing(Tokens):
    def features(self, images: Tensor) -> Tensor:
        pooled = self.mix(self.tokens(images)).mean(dim=1)
        self.drop(pooled)  # for nothing
        return pooled


class DropsAll(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(1.0)


class TrainsInEvaluation(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(24)  # type: ignore[assignment]

    def tokens(self, images: Tensor) -> Tensor:
        norm = self.norm
        maps = functional.batch_norm(self.embed(images), norm.running_mean, norm.running_var, training=True)  # type: ignore[arg-type]
        return maps.flatten(2).transpose(1, 2)


class Mixed(Tokens):
    def tokens(self, images: Tensor) -> Tensor:
        maps = self.embed(images)
        return maps.reshape(maps.shape[2] * maps.shape[3], maps.shape[0], -1).transpose(0, 1)  # over the batch


class OverTheBatch(Tokens):
    def features(self, images: Tensor) -> Tensor:
        pooled = super().features(images)
        return pooled - pooled.mean(dim=0)  # over the batch


class Repeated(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.block(24)] * 2)  # one


class TimesZero(Tokens):
    def mix(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = tokens + 0.0 * block(tokens)  # times zero
        return tokens


class Rounded(Tokens):
    def mix(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = tokens + block(tokens).round()  # no gradient
        return tokens


class Compared(Tokens):
    def mix(self, tokens: Tensor) -> Tensor:
        mixed = super().mix(tokens)
        return tokens * (mixed > 0) + 0 * mixed.sum()  # a comparison has none


class Dead(Tokens):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            nn.init.constant_(block[0].bias, -100.0)  # type: ignore[index]


class OneChannel(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :1].expand(-1, 3, -1, -1))


class OneCorner(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :, :16, :16])


class Blind(Tokens):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.ones_like(images))


def asked(
    network: nn.Module, inputs: Tensor = IMAGES, target: Tensor = TARGET, loss: Any = functional.cross_entropy, **more: Any,
) -> Report:
    """What the model organ says."""
    torch.manual_seed(0)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    report = visit(Patient(network, (inputs, target), loss, optimizer, **more), EXAMINATIONS, budget=1e9)
    assert not any("own failure" in finding.message for finding in report.findings), str(report)
    return report


def errors(report: Report) -> list[str]:
    return [finding.code for finding in report.errors]


def line(kind: type, text: str) -> str:
    """file:line of the line of a class that ends so."""
    lines, first = inspect.getsourcelines(kind)
    return f"{Path(__file__).name}:{next(first + number for number, said in enumerate(lines) if said.rstrip().endswith(text))}"


@pytest.mark.parametrize(
    ("kind", "code", "what", "comment"), [
        (InAList, "M07", "blocks", "# in a list"), (InAClosure, "M07", "extra", "# in a closure"),
        (PlainTensor, "M07", "position", "# a plain tensor"),
        (Sigmoid, "M10", "sigmoid behind head (Linear)", "# squashed"), (Softmax, "M10", "softmax behind head (Linear)", "# squashed"),
        (InPlace, "M10", "sigmoid_ behind head (Linear)", "# squashed"),
        (SoftmaxByHand, "M10", "head (Linear)", "# squashed"), (TanhHead, "M10", "tanh behind head (Linear)", "# squashed"),
        (AlwaysDropping, "M11", "dropout", "# always active"), (DropsNothing, "M11", "drop", "# for nothing"),
        (Mixed, "M09", "Mixed", "# over the batch"), (OverTheBatch, "M09", "OverTheBatch", "# over the batch"),
        (TimesZero, "M06", "blocks", "# times zero"), (Rounded, "M06", "blocks", "# no gradient"),
        (Compared, "M06", "blocks", "# a comparison has none"),
    ],
)
def test_what_is_wrong_is_found_in_its_line(kind: type[Tokens], code: str, what: str, comment: str) -> None:
    torch.manual_seed(0)
    finding = asked(kind()).errors[0]
    assert (finding.code, finding.culprit.what, finding.culprit.where) == (code, what, line(kind, comment))


@pytest.mark.parametrize(
    ("kind", "code", "what"), [
        (NeverInEvaluation, "M11", "drop"), (DropsAll, "M11", "drop"), (TrainsInEvaluation, "M11", "norm"), (Dead, "M06", "blocks.0.0"),
        (OneChannel, "M08", "channel 1, 2 of 3"), (OneCorner, "M08", "75% of the area"), (Blind, "M08", "Blind"),
    ],
)
def test_what_is_wrong_is_found(kind: type[Tokens], code: str, what: str) -> None:
    torch.manual_seed(0)
    found = [finding for finding in asked(kind()).errors if finding.code == code]
    assert found and found[0].culprit.what.startswith(what)


def test_one_block_several_times_warns() -> None:
    report = asked(Repeated())
    finding, = report.findings
    assert (finding.code, finding.severity, finding.culprit.what) == ("M12", "warning", "blocks[0, 1]")
    assert finding.culprit.where == line(Repeated, "# one")


def test_a_tie_that_is_lost_is_an_error_and_one_that_holds_is_none() -> None:
    network = Tokens()
    tie = Intent(ties=(("blocks.0.0.weight", "blocks.1.0.weight"),))
    assert errors(asked(network, intent=tie)) == ["M12"]
    network.blocks[1][0].weight = network.blocks[0][0].weight  # type: ignore[index]
    assert not asked(network, intent=tie).findings


def test_two_parameters_in_one_memory_warn() -> None:
    network = Tokens()
    network.blocks[1][0].weight.data = network.blocks[0][0].weight.data  # type: ignore[index]
    finding, = asked(network).findings
    assert (finding.code, finding.severity, finding.culprit.what) == ("M12", "warning", "blocks.0.0.weight, blocks.1.0.weight")


def labelled(*labels: str) -> Data:
    nothing = DataSplit([], [])
    return Data(labels, {"train": nothing, "val": nothing}, lambda path: [path.parent.name])


def test_more_outputs_than_labels_are_an_error_where_the_labels_are_known_and_a_warning_where_they_are_guessed() -> None:
    assert errors(asked(Tokens(3), data=labelled("cat", "dog"))) == ["M10"]
    assert not asked(Tokens(2), data=labelled("cat", "dog")).findings
    assert [(finding.code, finding.severity) for finding in asked(Tokens(3)).findings] == [("M10", "warning")]


class Pretrained(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(24)

    def tokens(self, images: Tensor) -> Tensor:
        return self.batch(self.embed(images)).flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def weights() -> Mapping[str, Tensor]:
    """Of a network that has been trained a little, as a file would have them."""
    torch.manual_seed(1)
    network = Pretrained()
    network(IMAGES)
    return copy.deepcopy(network.state_dict())


def loaded(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    report = asked(network, intent=Intent(pretrained=state))
    assert "M13" not in report.not_run
    return [finding.code for finding in report.findings]


def test_pretrained_weights_are_missed_where_they_are_not_in_the_network(weights: Mapping[str, Tensor]) -> None:
    network = Pretrained()
    assert loaded(network, weights) == ["M13"]
    prefixed = {f"module.{name}": value for name, value in weights.items()}
    network.load_state_dict(prefixed, strict=False)
    assert loaded(network, prefixed) == ["M13"], "a wrong prefix loads nothing"
    network.load_state_dict({name: value for name, value in weights.items() if "running" not in name}, strict=False)
    report = asked(network, intent=Intent(pretrained=weights))
    assert errors(report) == ["M13"] and "running statistics" in report.errors[0].message


def test_pretrained_weights_are_known_under_another_prefix_a_new_head_and_after_some_training(weights: Mapping[str, Tensor]) -> None:
    network = Pretrained()
    network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("head")}, strict=False)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    assert not loaded(network, weights)
    assert not loaded(network, {f"backbone.{name}": value for name, value in weights.items()})


# Healthy networks, each a trap of one of the examinations.


class Elsewhere(Tokens):
    """A function of the features instead of the head alone."""

    def __init__(self, function: Callable[[Tensor], Tensor], labels: int = 2) -> None:
        super().__init__(labels)
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(super().forward(images))


class LayerDropped(Tokens):
    def mix(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            if not self.training or float(torch.rand(())) < 0.5:
                tokens = tokens + block(tokens)
        return tokens


class Routed(Tokens):
    """One expert for each image, by a mask: the others' gradients are exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([self.block(24) for _ in range(6)])
        self.router = nn.Linear(24, 6)

    def mix(self, tokens: Tensor) -> Tensor:
        shares = self.router(tokens.mean(dim=1)).softmax(1)
        mask = functional.one_hot(shares.argmax(dim=1), 6) * shares
        return tokens + sum(mask[:, number, None, None] * expert(tokens) for number, expert in enumerate(self.experts))


class StraightThrough(Tokens):
    def mix(self, tokens: Tensor) -> Tensor:
        mixed = super().mix(tokens)
        return mixed + (mixed.round() - mixed).detach()


class Scaled(Tokens):
    """Residual gains that start at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.zeros(2))

    def mix(self, tokens: Tensor) -> Tensor:
        for gain, block in zip(self.gains, self.blocks, strict=True):
            tokens = tokens + gain * block(tokens)
        return tokens


class Checkpointed(Tokens):
    """With the dummy that reentrant checkpoints want: a plain tensor with a gradient, that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.dummy = torch.ones(1, requires_grad=True)

    def mix(self, tokens: Tensor) -> Tensor:
        return checkpoint(lambda given, _: super(Checkpointed, self).mix(given), tokens, self.dummy, use_reentrant=True)


class Taught(Tokens):
    """A teacher in a list, so that it is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [Tokens().requires_grad_(False).eval()]

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0.1 * self.teacher[0](images)


class SequenceFirst(Tokens):
    """Eight tokens of eight images: two axes of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 24, (8, 16), (8, 16))
        self.attention = nn.MultiheadAttention(24, 2)

    def mix(self, tokens: Tensor) -> Tensor:
        turned = tokens.transpose(0, 1)
        return super().mix(self.attention(turned, turned, turned)[0].transpose(0, 1))


class FrozenBackbone(Tokens):
    def __init__(self) -> None:
        super().__init__()
        for part in (self.embed, self.norm, self.blocks):
            part.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(images)


class Siamese(Tokens):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images) + super().features(images.flip(3))


def normalised() -> nn.Module:
    network = Tokens()
    parametrizations.weight_norm(network.blocks[0][0])  # type: ignore[index]
    parametrizations.spectral_norm(network.blocks[1][0])  # type: ignore[index]
    return network


def with_logits(logits: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits.squeeze(1), target.float())


def probability(outputs: Tensor, target: Tensor) -> Tensor:
    return functional.binary_cross_entropy(outputs.squeeze(1), target.float())


HEALTHY: dict[str, Callable[[], tuple[Any, ...]]] = {
    "a head of zeros": lambda: (Tokens(),),
    "layers that are left out": lambda: (LayerDropped(),),
    "experts that nobody chooses": lambda: (Routed(),),
    "a straight-through estimator": lambda: (StraightThrough(),),
    "gains of zero": lambda: (Scaled(),),
    "reentrant checkpoints": lambda: (Checkpointed(),),
    "a teacher in a list": lambda: (Taught(),),
    "sequence first": lambda: (SequenceFirst(),),
    "a frozen backbone": lambda: (FrozenBackbone(),),
    "siamese": lambda: (Siamese(),),
    "weight and spectral norm": lambda: (normalised(),),
    "one logit": lambda: (Tokens(1), IMAGES, TARGET, with_logits),
    "sigmoid and BCE": lambda: (Elsewhere(torch.sigmoid, 1), IMAGES, TARGET, probability),
    "log_softmax and NLL": lambda: (Elsewhere(nn.LogSoftmax(1)), IMAGES, TARGET, nn.NLLLoss()),
    "log_softmax and cross-entropy": lambda: (Elsewhere(nn.LogSoftmax(1)),),
    "softmax and the logarithm": lambda: (
        Elsewhere(nn.Softmax(1)), IMAGES, TARGET, lambda outputs, target: functional.nll_loss(outputs.log(), target),
    ),
    "tanh and a temperature": lambda: (
        Elsewhere(torch.tanh), IMAGES, TARGET, lambda outputs, target: functional.cross_entropy(16 * outputs, target),
    ),
    "capped logits": lambda: (Elsewhere(lambda logits: 30 * torch.tanh(logits / 30)),),
    "soft targets": lambda: (Tokens(), IMAGES, torch.eye(2)[TARGET] * 0.8 + 0.1),
    "smoothing and weights": lambda: (
        Tokens(), IMAGES, TARGET, nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7]), label_smoothing=0.1),
    ),
    "grey pictures": lambda: (OneChannel(), IMAGES[:, :1].repeat(1, 3, 1, 1)),
    "a border of patches that do not fit": lambda: (Tokens(), IMAGES[:, :, :30, :30]),
    "a batch of one": lambda: (Tokens(), IMAGES[:1], TARGET[:1]),
    "features": lambda: (nn.Linear(12, 2), torch.randn(8, 12)),
    "resnet18 with zero_init_residual": lambda: (zoo.resnet18(num_classes=2, zero_init_residual=True),),
    "mobilenet_v3_small": lambda: (zoo.mobilenet_v3_small(num_classes=2),),
    "a network of the catalogue, of whole numbers": lambda: (
        models.build("mobilenet_v3_small", labels=["cat", "dog"], weights="none", image_size=32, weights_folder=None),
        IMAGES.add(2).mul(50).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_not_accused(name: str) -> None:
    torch.manual_seed(0)
    report = asked(*HEALTHY[name]())
    assert not report.errors, report
    assert len(report.warnings) <= (name == "experts that nobody chooses"), report


def test_a_channel_of_whole_numbers_that_is_not_looked_at_is_found() -> None:
    network = models.build("mobilenet_v3_small", labels=["cat", "dog"], weights="none", image_size=32, weights_folder=None)
    network.normalise.register_forward_hook(lambda *call: call[-1] * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1))
    report = asked(network, IMAGES.add(2).mul(50).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    assert [(finding.code, finding.culprit.what) for finding in report.errors] == [("M08", "channel 1 of 3")]


@pytest.mark.parametrize(("kind", "intent"), [(AlwaysDropping, Intent(random_eval=True)), (OverTheBatch, Intent(transductive=True))])
def test_what_is_declared_is_not_held_against_anyone(kind: type[Tokens], intent: Intent) -> None:
    assert errors(asked(kind())) and not errors(asked(kind(), intent=intent))


def test_dead_gradients_of_a_loss_warn() -> None:
    """The network is alive: its outputs have a gradient."""
    report = asked(Tokens(), loss=lambda outputs, target: functional.cross_entropy(outputs, target).clamp(max=0.1))
    assert [(finding.code, finding.severity) for finding in report.findings] == [("M06", "warning")]


def test_what_hangs_in_a_list_is_put_back() -> None:
    network = InAList()
    network.blocks.append(nn.BatchNorm1d(16))
    before = [copy.deepcopy(block.state_dict()) for block in network.blocks]
    asked(network)
    after = [block.state_dict() for block in network.blocks]
    assert all(torch.equal(one[name], other[name]) for one, other in zip(before, after, strict=True) for name in one)
    assert all(weight.grad is None for block in network.blocks for weight in block.parameters())


def test_settled_statistics_are_those_of_the_batch() -> None:
    norm = nn.BatchNorm2d(3)
    settle(norm, 5 * IMAGES + 2)
    assert norm.momentum == 0.1 and torch.allclose(norm(5 * IMAGES + 2), norm.eval()(5 * IMAGES + 2), atol=1e-3)


# Parity: a second way to compute there is where there is a second device, or where something was compiled.


@pytest.fixture
def wrong_backend() -> Iterator[Callable[..., Any]]:
    """A compiler whose results are a hundredth too large."""

    def backend(graph: Any, _: Any) -> Callable[..., Any]:
        return lambda *given: tuple(one * 1.01 if one.requires_grad else one for one in graph(*given))

    yield backend
    torch._dynamo.reset()


def test_a_compiler_that_computes_something_else_is_an_error(wrong_backend: Callable[..., Any]) -> None:
    network = Tokens()
    nn.init.normal_(network.head.weight)
    report = asked(torch.compile(network, backend=wrong_backend))  # type: ignore[arg-type]
    assert errors(report) == ["M14"] and "torch.compile" in report.errors[0].message


def test_a_compiler_that_computes_the_same_is_none(wrong_backend: Callable[..., Any]) -> None:
    network = Tokens()
    nn.init.normal_(network.head.weight)
    report = asked(torch.compile(network, backend="eager"))  # type: ignore[arg-type]
    assert not report.findings and "M14" in report.passed


def test_a_layer_that_half_the_precision_is_too_little_for_is_a_warning_of_its_own() -> None:
    class Steep(Tokens):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))
            return super().forward(images) + (self.steep(tokens * 2000).abs().mean((1, 2)) / 1e6)[:, None]

        def __init__(self) -> None:
            super().__init__()
            self.steep = nn.Linear(24, 24)

    for precision, codes in ((torch.float16, ["M14"]), (torch.bfloat16, [])):
        network = Steep()
        nn.init.eye_(network.steep.weight).data.mul_(100.0)
        report = asked(network, intent=Intent(precision=precision))
        assert [one.code for one in report.findings if one.code == "M14"] == codes, report
        assert codes or "M14" in report.passed


def test_a_deep_network_that_has_learned_nothing_fits_into_half_the_precision() -> None:
    """With the statistics that batch normalisation starts from, its values would leave float16."""
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            nn.init.normal_(self.conv.weight)

        def forward(self, maps: Tensor) -> Tensor:
            return maps + functional.relu(self.norm(self.conv(maps)))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), *(Block() for _ in range(12)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    report = asked(network, intent=Intent(precision=torch.float16))
    assert "M14" in report.passed, report


@pytest.mark.parametrize("waivers", [("blocks",), ("bl*",), ("blocks.*",), ("blocks.0", "blocks.1")])
@pytest.mark.parametrize(("kind", "code"), [(TimesZero, "M06"), (InAList, "M07")])
def test_what_is_meant_to_do_nothing_is_said_by_its_path_or_a_pattern(kind: type[nn.Module], code: str, waivers: tuple[str, ...]) -> None:
    assert code in errors(asked(kind()))
    network, intent = kind(), Intent(unused_ok=waivers)
    assert code not in errors(asked(network, intent=intent))
    patient = Patient(network, (IMAGES, TARGET), functional.cross_entropy, intent=intent)
    assert not visit(patient, branches.EXAMINATIONS, budget=600).findings


@pytest.mark.parametrize("waiver", ["norms", "norms.*"])
def test_a_mode_that_nobody_sets_is_waived_as_well(waiver: str) -> None:
    network = Tokens()
    network.norms = [nn.BatchNorm1d(4)]  # type: ignore[assignment]
    assert [finding.code for finding in asked(network).findings] == ["M07"]
    assert not asked(network, intent=Intent(unused_ok=(waiver,))).findings


def test_where_there_is_one_device_and_nothing_compiled_the_network_is_not_so_much_as_run() -> None:
    with pytest.raises(CannotTell, match="one device, and nothing compiled"):
        list(parity.parity.run(Patient(nn.BatchNorm2d(7), (IMAGES, TARGET))))  # it cannot be: they have 3 channels


def test_a_device_that_computes_the_same_in_small_numbers_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(Tokens):
        def forward(self, images: Tensor) -> Tensor:
            return 1e-10 * super().forward(images)

    network = Small()
    nn.init.normal_(network.head.weight)
    monkeypatch.setattr(parity, "_ways", lambda _, inner: [parity._Way("other", copy.deepcopy(inner), torch.device("cpu"))])
    assert "M14" in asked(network).passed


def test_a_device_that_computes_something_else_is_an_error_of_its_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another device is played by a copy whose second block is off."""
    network = Tokens()
    nn.init.normal_(network.head.weight)

    def ways(_: Patient, inner: nn.Module) -> Iterator[parity._Way]:
        other = copy.deepcopy(inner)
        off = functools.partial(functional.linear, weight=other.get_parameter("blocks.1.0.weight") * 1.5)
        other.get_submodule("blocks.1.0").forward = off
        yield parity._Way("other", other, torch.device("cpu"))

    monkeypatch.setattr(parity, "_ways", ways)
    finding, = asked(network).findings
    assert (finding.code, finding.severity, finding.culprit.what) == ("M14", "error", "blocks.1.0")


class TwoAtLeast(nn.Module):
    """Leaves by sys.exit where it is asked about one image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(IMAGES[0].numel(), 2)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) < 2:
            sys.exit("two at least")
        answers: Tensor = self.head(images.flatten(1))
        return answers


def fastidious(outputs: Tensor, target: Tensor) -> Tensor:
    """A loss that leaves by sys.exit where it is asked about more than it is used to."""
    if outputs.abs().max() > 5:
        sys.exit("what is this?")
    return functional.cross_entropy(outputs, target)


@pytest.mark.parametrize("loss", [functional.cross_entropy, fastidious])
def test_who_leaves_by_sys_exit_at_an_unusual_question_is_no_failure_of_the_doctor(loss: Any) -> None:
    assert not asked(TwoAtLeast(), loss=loss, intent=Intent(loss="cross_entropy")).errors
