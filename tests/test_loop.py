"""loop: the golden run, exact resume, the best epoch, and no update from a loss that is not finite."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from catdog import balance, checkpoints, loop, losses, micro_batches
from catdog.config import TrainConfig
from catdog.errors import NonFiniteLoss
from catdog.learner import Learner
from catdog.loaders import Split, Splits
from catdog.metrics import Answers, Measures, Tally
from catdog.progress import Progress
from catdog.ranks import ALONE
from catdog.state import State

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parent / "golden" / "loss_cpu.txt"


class TinyNet(nn.Module):
    """pixels (N, 8, 8, 3) uint8 -> logits (N, 2), with everything that has state: BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2),
        )
        self.head = nn.Linear(4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(pixels.permute(0, 3, 1, 2).float() / 255))
        return logits


def network(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet()


def split(images: int, seed: int) -> Split:
    """Pictures whose label is the brighter half: learnable, not at once."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 200, (images, 8, 8, 3), dtype=torch.uint8, generator=generator)
    targets = torch.arange(images) % 2
    pixels[targets == 1, :4] += 55
    return Split(targets, lambda positions, *_: pixels[positions])


def config(**fields: Any) -> TrainConfig:
    fields = {"epochs": 3, "batch_size": 5, "learning_rate": 0.01, "warmup_steps": 2, **fields}
    return TrainConfig.parse({"dataset": "ds_" + "0" * 32, "model": "unet", **fields})


def is_step(progress: Progress) -> bool:
    """A step that was made; while it measures the loop repeats the last one, without its pace, as a sign of life."""
    return progress.kind == "step" and progress.learning_rate is not None


def train(folder: Path, net: nn.Module | None = None, *, fence: int = 0, **fields: Any) -> Generator[Progress]:
    return loop.train(
        net or network(), Splits(split(16, 1), split(6, 2), split(6, 3)), config(**fields), labels=2, device="cpu", folder=folder,
        fence=fence,
    )


def evaluated(net: nn.Module, data: Split, *, batch_size: int = 5, loss: str = "cross_entropy") -> Answers:
    """What evaluate returns, its signs of life left unheard."""
    answers = loop.evaluate(net, data, loss=losses.build(loss, labels=2), batch_size=batch_size)
    while True:
        try:
            next(answers)
        except StopIteration as end:
            found: Answers = end.value
            return found


def learner_of(net: nn.Module, **fields: Any) -> Learner:
    targets = fields.pop("targets", torch.tensor([0, 1]))
    return Learner.build(net, config(**fields), targets=targets, labels=2, device="cpu", ranks=ALONE)


def in_double(net: TinyNet) -> TinyNet:
    """In float64, and without what depends on who else is in the batch or on chance."""
    net.backbone[1], net.backbone[5] = nn.Identity(), nn.Identity()
    net.backbone[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return net.double()


def test_the_golden_run(tmp_path: Path) -> None:
    """Two columns, step and training loss of that step's epoch so far. A changed file must be explained in its commit."""
    lines = [f"{p.step} {p.train_loss:.6f}" for p in train(tmp_path) if is_step(p)]
    expected = [tuple(map(float, line.split())) for line in GOLDEN.read_text().splitlines()]
    received = [tuple(map(float, line.split())) for line in lines]
    assert [step for step, _ in received] == [step for step, _ in expected]
    torch.testing.assert_close(torch.tensor(received), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_a_seeded_run_repeats_and_another_seed_differs(tmp_path: Path) -> None:
    runs = [[p for p in train(tmp_path / str(n), seed=seed) if p.kind == "epoch"] for n, seed in enumerate((0, 0, 1))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


FIELDS: dict[str, dict[str, Any]] = {
    "plain": {}, "weighted": {"balance": "weighted"}, "sampler": {"balance": "sampler"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "schedule": "step", "step_epochs": 1, "clip_norm": 0.1},
    "average": {"ema": 0.8, "mixup": 0.3, "cutmix": 1.0, "label_smoothing": 0.1},
    "two phases": {"head_epochs": 1, "layer_decay": 0.7, "micro_batch": 2, "best_by": "accuracy", "patience": 2},
}
STOPS = [("plain", after_steps) for after_steps in range(1, 12)]
STOPS += [(name, after_steps) for name in FIELDS if name != "plain" for after_steps in (1, 4, 7)]


@pytest.mark.parametrize(("name", "after_steps"), STOPS)
def test_a_run_stopped_at_any_step_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, name: str, after_steps: int) -> None:
    whole = network()
    epochs = [p for p in train(tmp_path / "whole", whole, **FIELDS[name]) if p.kind == "epoch"]

    stopped, heard = train(tmp_path / "resumed", network(), fence=1, **FIELDS[name]), []
    for progress in stopped:
        heard.append(progress)
        if is_step(progress) and progress.step == after_steps:
            stopped.close()
    resumed = network(seed=77)
    second = list(train(tmp_path / "resumed", resumed, fence=2, **FIELDS[name]))

    assert [p.step for p in second if is_step(p)] == list(range(after_steps + 1, 10)), "no step twice, none left out"
    assert [p for p in (*heard, *second) if p.kind == "epoch"] == epochs
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    best, again = (loop.best(tmp_path / folder) for folder in ("whole", "resumed"))
    assert all(torch.equal(value, again.weights()[key]) for key, value in best.weights().items())


def test_a_run_stopped_while_it_measures_measures_again_and_trains_no_step_twice(tmp_path: Path) -> None:
    whole = network()
    for _ in train(tmp_path / "whole", whole):
        pass
    stopped = train(tmp_path / "resumed", network(), fence=1)
    for progress in stopped:
        if progress.kind == "step" and not is_step(progress):  # a sign of life of the first validation
            stopped.close()
    resumed = network(seed=77)
    second = list(train(tmp_path / "resumed", resumed, fence=2))
    assert [p.step for p in second if is_step(p)] == list(range(4, 10))
    assert [p.epoch for p in second if p.kind == "epoch"] == [1, 2, 3]
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_every_random_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    run = train(tmp_path)
    for progress in run:
        if progress.kind == "checkpoint":
            expected = draws()
            break
    run.close()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    found = checkpoints.latest(tmp_path, fence=0)
    assert found is not None
    learner = learner_of(network())
    checkpoints.restore(found, network=learner.network, optimizer=learner.optimizer)
    assert draws() == expected


def test_every_image_is_trained_on_once_an_epoch_and_a_last_single_one_joins_its_neighbours() -> None:
    data = split(16, 1)
    seen = data.plan(5, order=list(range(16)))
    assert [len(batch) for batch in seen] == [5, 5, 6]
    assert sorted(itertools.chain(*seen)) == list(range(16))
    assert [len(target) for _, target in data.batches(data.plan(5), skip=1)] == [5, 6]


def test_a_data_set_smaller_than_a_batch_is_one_batch(tmp_path: Path) -> None:
    """The workshop's loader dropped the last batch, and with it a small data set."""
    steps = [p for p in train(tmp_path, batch_size=64) if is_step(p)]
    assert [p.steps for p in steps] == [3, 3, 3]


def test_a_batch_is_on_the_cpu_until_the_loop_moves_it() -> None:
    assert all(part.device.type == "cpu" for batch in split(16, 1).batches([[0, 1, 2], [3, 4]]) for part in batch)


def test_epoch_losses_do_not_depend_on_the_batch_size_of_evaluation() -> None:
    net, data = in_double(network()), split(13, 3)
    measured = [Measures.of(evaluated(net, data, batch_size=size)) for size in (1, 5, 10, 13)]
    assert all(one.images == 13 for one in measured)
    assert all(abs(one.loss - measured[0].loss) < 1e-9 for one in measured)
    assert net.training


def test_a_weighted_step_is_that_of_the_weighted_mean_and_reports_the_plain_one() -> None:
    """The gradients are those of sum(weight * loss) / images, also where a batch has more of a rare label than its share."""
    (inputs, _), target = next(split(5, 1).batches([[0, 1, 2, 3, 4]])), torch.tensor([0, 0, 0, 1, 1])
    loss = losses.build("cross_entropy", labels=2)
    net, by_hand = in_double(network()), in_double(network())
    learner = learner_of(
        net, optimizer="sgd", momentum=0, weight_decay=0, learning_rate=1.0, balance="weighted", targets=torch.tensor([0] * 8 + [1] * 2),
    )
    assert learner.label_weights.tolist() == [0.625, 2.5]
    state = State()
    loop.train_step(learner, inputs, target, images=5, state=state)

    plain = loss(by_hand(inputs), target)
    parameters = list(by_hand.parameters())
    gradients = torch.autograd.grad((0.625 * plain[:3].sum() + 2.5 * plain[3:].sum()) / 5, parameters)
    for after, before, gradient in zip(net.parameters(), parameters, gradients, strict=True):
        torch.testing.assert_close(after, before - gradient, rtol=0, atol=1e-12)
    assert state.tally.loss == pytest.approx(plain.mean().item(), abs=1e-12)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 6, 7])
def test_a_step_in_micro_batches_is_that_of_the_whole_batch(micro_batch: int) -> None:
    """Also where the last one is ragged, in float64 to 1e-12."""
    inputs, target = next(split(7, 1).batches([list(range(7))]))
    whole, pieces = in_double(network()), in_double(network())
    for net, size in ((whole, 7), (pieces, micro_batch)):
        state = State()
        loop.train_step(learner_of(net, batch_size=7, micro_batch=size), inputs, target, images=7, state=state)
        assert state.tally.images == 7
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_sampled_epoch_is_taken_as_balance_orders_it(tmp_path: Path) -> None:
    data, seen = split(16, 1), []
    targets = torch.tensor([0] * 12 + [1] * 4)

    def fetch(positions: Any, *rest: Any) -> Tensor:
        seen.extend(positions)
        return data.fetch(positions, *rest)

    for _ in loop.train(
        network(), Splits(Split(targets, fetch), split(6, 2)), config(balance="sampler", epochs=2), labels=2, device="cpu", folder=tmp_path,
    ):
        pass
    epochs = [balance.order(targets, seed=0, epoch=epoch) for epoch in range(2)]
    # A batch is fetched look by look, so within it the order is not the drawn one.
    assert [Counter(seen[:16]), Counter(seen[16:32])] == [Counter(order) for order in epochs] and len(seen) == 32


def test_an_epoch_says_what_its_validation_found_for_each_label(tmp_path: Path) -> None:
    last = [p for p in train(tmp_path) if p.kind == "epoch"][-1]
    again = network()
    again.load_state_dict(checkpoints.at(tmp_path, last.step or 0).weights())
    tally = Measures.of(evaluated(again, split(6, 2), batch_size=4))
    assert last.val_balanced_accuracy == tally.balanced_accuracy and last.val_accuracy == tally.accuracy
    for said, found in ((last.val_precision, tally.precision), (last.val_recall, tally.recall), (last.val_f1, tally.f1)):
        assert said == pytest.approx(found, abs=1e-4)


def test_a_validation_that_is_not_finite_ends_the_run_and_keeps_the_best(tmp_path: Path) -> None:
    """nan < best is false: the workshop's loop went on for ever without a checkpoint, or with a stale one."""
    net = network()
    run = train(tmp_path, net)
    with pytest.raises(NonFiniteLoss, match="after epoch 2"):
        for progress in run:
            if is_step(progress) and progress.step == 6:  # the last of the second epoch
                with torch.no_grad():
                    net.head.bias.fill_(float("nan"))
    assert loop.best(tmp_path).state["best_epoch"] == 1


def test_evaluation_leaves_gradients_on_and_weights_alone() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluated(net, split(6, 2))
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    net = network()
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    before = {name: value.clone() for name, value in net.named_parameters()}
    state = State(step=7)
    inputs, target = next(split(4, 1).batches([[0, 1, 2, 3]]))
    with pytest.raises(NonFiniteLoss, match="step 7") as caught:
        loop.train_step(learner_of(net), inputs, target, images=4, state=state)
    assert caught.value.step == 7
    assert state == State(step=7)
    assert all(torch.equal(value.nan_to_num(), dict(net.named_parameters())[name].nan_to_num()) for name, value in before.items())


class Undefined(nn.Module):
    """The logarithm of a distance that some picture makes zero: -inf there."""

    def forward(self, maps: Tensor) -> Tensor:
        return (maps - maps[:, :1]).abs().log()


def test_what_was_not_finite_is_named_with_its_module_and_its_pictures(tmp_path: Path) -> None:
    net = network()
    net.backbone[2] = Undefined()
    named = Splits(replace(split(16, 1), names=[f"cat.{number}.jpg" for number in range(16)]), split(6, 2))
    run = loop.train(net, named, config(), labels=2, device="cpu", folder=tmp_path / "checkpoints")
    with pytest.raises(NonFiniteLoss, match=r"at step 0.*The first module with such an output is backbone.2 \(Undefined\)") as caught:
        list(run)
    report = json.loads((tmp_path / "non_finite" / "report.json").read_text())
    order = loop.order_of(named.train, config(), epoch=0)[:5]
    assert report["batch"] == [f"cat.{number}.jpg" for number in order] == report["files"]
    assert "what came in was finite" in caught.value.message and "cat." in caught.value.message
    kept = load_file(tmp_path / "non_finite" / "batch.safetensors")
    assert torch.equal(kept["inputs"], named.train.fetch(order, 0)) and torch.equal(kept["target"], named.train.targets[order])


def test_only_the_guilty_picture_of_a_batch_is_accused(tmp_path: Path) -> None:
    values = torch.ones(8, 3)
    values[5, 1] = float("inf")
    named = Splits(Split(torch.arange(8) % 2, lambda positions, _: values[positions], [f"{n}.png" for n in range(8)]), split(6, 2))
    with pytest.raises(NonFiniteLoss, match=r"The pictures: 5\.png\."):
        list(loop.train(nn.Linear(3, 2), named, config(batch_size=8), labels=2, device="cpu", folder=tmp_path / "checkpoints"))


class Root(nn.Module):
    """The square root, whose slope at zero is infinite: the loss is finite, the gradient is not."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.sub(logits.detach()).abs().sqrt()


def test_a_gradient_that_is_not_finite_makes_no_update_and_names_the_operation(tmp_path: Path) -> None:
    first = nn.Linear(3, 2)
    net, before = nn.Sequential(first, Root()), first.weight.clone()
    values = torch.randn(8, 3)
    data = Splits(Split(torch.arange(8) % 2, lambda positions, _: values[positions]), split(6, 2))
    with pytest.raises(NonFiniteLoss, match=r"finite gradient at step 0.*going backward, Function .AbsBackward0"):
        list(loop.train(net, data, config(batch_size=8), labels=2, device="cpu", folder=tmp_path / "checkpoints"))
    assert torch.equal(first.weight, before)


class Small(nn.Module):
    """A network on a device with room for so many images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner, self.room, self.seen = in_double(network()), room, list[int]()

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training:
            self.seen.append(len(pixels))
            if len(pixels) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.inner(pixels)
        return logits


def test_out_of_memory_halves_what_goes_through_at_once_and_not_the_batch(tmp_path: Path) -> None:
    roomy, small = Small(100), Small(2)
    for _ in train(tmp_path / "roomy", roomy, batch_size=8):
        pass
    said = list(train(tmp_path / "small", small, batch_size=8))
    warnings = [p.message for p in said if p.kind == "warning"]
    assert [message and message.partition(",")[0] for message in warnings] == [
        "Out of memory with 8 images at once: going on with 4 at once", "Out of memory with 4 images at once: going on with 2 at once",
    ]
    assert small.seen[:3] == [8, 4, 2] and max(small.seen[2:]) == 2
    for one, other in zip(roomy.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    newest = checkpoints.latest(tmp_path / "small", fence=0)
    assert newest is not None and (newest.state["micro_batch"], newest.state["halvings"]) == (2, 2)


def test_the_fourth_time_out_of_memory_is_the_end(tmp_path: Path) -> None:
    net = Small(0)
    with pytest.raises(torch.OutOfMemoryError):
        list(train(tmp_path, net, batch_size=16))
    assert net.seen == [16, 8, 4, 2]


def test_a_scaled_loss_takes_the_same_step_and_a_step_that_overflows_is_left_out() -> None:
    """float16's scaler, which works on the CPU too: the steps of the plain loss; and NaN at every scale is said."""
    inputs, target = next(split(8, 1).batches([list(range(8))]))
    plain, scaled = in_double(network()), in_double(network())
    learners = [learner_of(net, batch_size=8, clip_norm=0.01, ema=0.5) for net in (plain, scaled)]
    learners[1].scaler = torch.amp.GradScaler("cpu", enabled=True)
    for learner in learners:
        loop.train_step(learner, inputs, target, images=8, state=State())
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)

    broken = nn.Sequential(nn.Linear(3, 2), Root())
    before = [parameter.clone() for parameter in broken.parameters()]
    learner, state = learner_of(broken, batch_size=8, ema=0.5), State()
    learner.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=4.0)
    loop.train_step(learner, torch.randn(8, 3), target, images=8, state=state)  # left out, and the scale is halved
    assert learner.average is not None and learner.average.n_averaged == 0
    loop.train_step(learner, torch.randn(8, 3), target, images=8, state=state)
    with pytest.raises(NonFiniteLoss, match="finite gradient"):
        loop.train_step(learner, torch.randn(8, 3), target, images=8, state=state)
    assert all(torch.equal(one, other) for one, other in zip(broken.parameters(), before, strict=True))


def test_another_order_of_learning_rates_finds_its_moments(tmp_path: Path) -> None:
    """layer_decay parts the parameters into other groups; each must get back what was remembered of it."""

    def deeper() -> TinyNet:
        net = network()
        net.backbone[2] = nn.Conv2d(4, 4, 1)
        return net

    for _ in train(tmp_path, deeper(), epochs=1):
        pass
    found = checkpoints.latest(tmp_path, fence=0)
    assert found is not None
    learners = [learner_of(deeper()), learner_of(deeper(), layer_decay=0.5)]
    moments = []
    for learner in learners:
        checkpoints.restore(found, network=learner.network, optimizer=learner.optimizer)
        named = {name: learner.optimizer.state[parameter]["exp_avg"] for name, parameter in learner.network.named_parameters()}
        moments.append(named)
        assert all(named[name].stride() == parameter.stride() for name, parameter in learner.network.named_parameters())
    assert all(torch.equal(value, moments[1][name]) for name, value in moments[0].items())
    orders = [[len(group["params"]) for group in learner.optimizer.param_groups] for learner in learners]
    assert orders[0] != orders[1]


def test_a_checkpoint_inside_an_epoch_does_not_replace_that_of_its_end(tmp_path: Path) -> None:
    for _ in train(tmp_path, epochs=1, save_steps=3):
        pass
    assert [path.name for path in sorted(tmp_path.glob("0/step-*"))] == ["step-0000003"]
    for _ in train(tmp_path / "more", epochs=2, save_steps=3):
        pass
    assert len(list((tmp_path / "more").glob("0/step-*"))) == 2, "the newest two, should the last be broken"


@pytest.mark.parametrize(("images", "micro_batch", "pieces"), [(3, 2, 1), (5, 2, 2), (7, 3, 3), (8, 2, 4), (5, 1, 5), (1, 2, 1)])
def test_no_micro_batch_is_of_one_image_unless_that_was_asked_for(images: int, micro_batch: int, pieces: int) -> None:
    assert micro_batches.number_of(learner_of(network(), batch_size=8, micro_batch=micro_batch), images, State()) == pieces


def test_what_fitted_into_memory_and_what_is_asked_for_both_bound_a_micro_batch() -> None:
    learner = learner_of(network(), batch_size=8, micro_batch=2)
    assert micro_batches.number_of(learner, 8, State(micro_batch=4)) == 4
    assert micro_batches.number_of(learner_of(network(), batch_size=8), 8, State(micro_batch=4)) == 2


def test_all_that_has_ended_a_training_is_said() -> None:
    assert State(epoch=10, waited=3).stop_reason(config(epochs=10, patience=3)) == "epochs and patience"
    assert State(epoch=10, waited=3).stop_reason(config(epochs=20, patience=3)) == "patience"
    assert State(epoch=10, waited=2).stop_reason(config(epochs=20, patience=3)) is None


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"epochs": 30, "learning_rate": 0.3, "schedule": "constant", "patience": 3}
    epochs = [p for p in train(tmp_path, **fields) if p.kind == "epoch"]
    val = [p.val_loss or 0 for p in epochs]
    assert len(epochs) < 30 and len(epochs) - 3 == epochs[-1].best_epoch == 1 + val.index(min(val))
    assert loop.outcome(tmp_path)[0].stop_reason(config(**fields)) == "patience"
    assert list(train(tmp_path, network(3), fence=1, **fields)) == [], "and a resumed run has nothing left to do"


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_outcome_of_a_training_is_told_by_opening_each_checkpoint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int,
) -> None:
    for _ in train(tmp_path, epochs=epochs, optimizer="sgd", learning_rate=1e-9):  # it does not get better than in the first
        pass
    opened: list[Path] = []
    load = checkpoints.load

    def watched(path: Path) -> checkpoints.Checkpoint:
        opened.append(path)
        return load(path)

    monkeypatch.setattr(checkpoints, "load", watched)
    state, best = loop.outcome(tmp_path)
    assert (state.epoch, state.best_epoch, best.step) == (epochs, 1, 3)
    assert [path.name for path in opened] == ["step-0000009", "step-0000003"][-min(epochs, 2):]


def test_an_epoch_must_be_better_by_min_delta_to_be_waited_on() -> None:
    state, wanted = State(), config(patience=2, min_delta=0.1, epochs=9)
    for loss, waited, best in ((1.0, 0, 1), (0.95, 1, 2), (0.85, 0, 3), (0.8, 1, 4), (0.76, 2, 5)):
        measures = Measures.of(Answers(torch.full((2,), loss, dtype=torch.float64), torch.zeros(2, 2), torch.tensor([0, 1])))
        state.note(measures, wanted)
        assert (state.waited, state.best_epoch) == (waited, best)
    assert state.stop_reason(wanted) == "patience"


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "auroc", "ece", "brier"])
def test_the_best_epoch_is_that_of_the_measure_asked_for(tmp_path: Path, name: str) -> None:
    epochs = [p for p in train(tmp_path, epochs=6, learning_rate=0.3, schedule="constant", best_by=name) if p.kind == "epoch"]
    values = [float(np.mean(epoch.val_f1 or [])) if name == "f1" else getattr(epoch, f"val_{name}") for epoch in epochs]
    wanted, state = min(values) if name in ("ece", "brier") else max(values), loop.best(tmp_path).state
    assert state["best_epoch"] == epochs[-1].best_epoch == 1 + values.index(wanted)
    assert state["best_value"] == pytest.approx(wanted, abs=1e-4)


def test_a_budget_ends_a_training_after_a_measured_epoch(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"epochs": 1000, "max_minutes": 1e-9}
    said = list(train(tmp_path, **fields))
    assert [p.step for p in said if is_step(p)] == [1], "the first step uses it up"
    assert [p.epoch for p in said if p.kind == "epoch"] == [1] and loop.best(tmp_path).state["best_epoch"] == 1
    assert loop.outcome(tmp_path)[0].stop_reason(config(**fields)) == "max_minutes"
    more = train(tmp_path, network(3), fence=1, epochs=1000, max_minutes=1000)
    assert next(p.step for p in more if is_step(p)) == 2, "with more of it the training goes on"
    more.close()


def test_in_the_first_phase_the_head_alone_moves_and_then_all_does(tmp_path: Path) -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    moved = []
    for progress in train(tmp_path, net, epochs=2, head_epochs=1):
        if progress.kind == "epoch":
            moved.append({name.partition(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])})
    assert moved == [{"head"}, {"head", "backbone"}]


def test_the_average_is_measured_saved_and_follows_the_formula(tmp_path: Path) -> None:
    net, decay = network(), 0.75
    expected: dict[str, Tensor] = {}
    for progress in train(tmp_path, net, ema=decay, epochs=1):
        if is_step(progress):
            now = {name: value.detach().clone() for name, value in net.named_parameters()}
            expected = {name: decay * expected[name] + (1 - decay) * value for name, value in now.items()} if expected else now
        last = progress
    judged = loop.best(tmp_path).weights()
    for name, value in expected.items():
        torch.testing.assert_close(judged[name], value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(judged[name], net.state_dict()[name])
    assert last.kind == "checkpoint"
    again = network(3)
    again.load_state_dict(judged)
    assert Measures.of(evaluated(again, split(6, 2))).loss == pytest.approx(loop.best(tmp_path).state["best_value"], abs=1e-9)


def test_a_gradient_is_cut_to_its_norm() -> None:
    inputs, target = next(split(5, 1).batches([[0, 1, 2, 3, 4]]))
    net = in_double(network())
    before = [parameter.clone() for parameter in net.parameters()]
    learner = learner_of(net, optimizer="sgd", momentum=0, weight_decay=0, learning_rate=1.0, clip_norm=1e-3)
    loop.train_step(learner, inputs, target, images=5, state=State())
    moved = torch.cat([(one - other).flatten() for one, other in zip(net.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_nothing_is_measured_with_smoothed_labels_and_a_part_of_train_is_measured_as_val_is(tmp_path: Path) -> None:
    last = [p for p in train(tmp_path, label_smoothing=0.4) if p.kind == "epoch"][-1]
    again = network()
    again.load_state_dict(checkpoints.at(tmp_path, last.step or 0).weights())
    assert last.val_loss == pytest.approx(Measures.of(evaluated(again, split(6, 2))).loss)
    assert last.train_eval_loss == pytest.approx(Measures.of(evaluated(again, split(6, 3))).loss)
    assert last.train_eval_accuracy is not None and last.val_auroc is not None and last.val_ece is not None


def test_the_best_epoch_is_the_first_with_the_lowest_validation_loss_and_is_kept(tmp_path: Path) -> None:
    epochs = [p for p in train(tmp_path, epochs=8, learning_rate=0.3, schedule="constant") if p.kind == "epoch"]
    val = [p.val_loss for p in epochs]
    best = loop.best(tmp_path)
    assert best.state["best_epoch"] == 1 + val.index(min(v for v in val if v is not None))
    assert best.state["epoch"] == best.state["best_epoch"], "a run whose best epoch is the last would not show that it is kept"
    assert best.state["best_epoch"] < 8
    again = network(seed=5)
    again.load_state_dict(best.weights())
    tally = Measures.of(evaluated(again, split(6, 2)))
    assert tally.loss == pytest.approx(best.state["best_value"], abs=1e-9)


def test_a_broken_newest_checkpoint_costs_one_epoch_and_not_the_best(tmp_path: Path) -> None:
    for _ in train(tmp_path):
        pass
    newest = checkpoints.latest(tmp_path, fence=0)
    assert newest is not None
    (newest.folder / "weights.safetensors").write_bytes(b"")
    epochs = [p.epoch for p in train(tmp_path, network(seed=3), fence=1) if p.kind == "epoch"]
    assert epochs == [3]
    assert loop.best(tmp_path)


def test_a_tally_survives_the_checkpoint() -> None:
    state = State(epoch=1, batch=2, step=5, tally=Tally(10, 3.5, 7), best_epoch=1, best_step=3, best_value=0.5)
    assert State.from_dict(asdict(state)) == state


def test_no_epoch_is_saved_as_finished_and_never_heard_of(tmp_path: Path) -> None:
    """Whatever Progress a run is stopped after, first and second run together tell of every epoch."""
    for stop_after in range(1, 16):
        folder, heard = tmp_path / str(stop_after), []
        first = train(folder)
        for number, progress in enumerate(first, 1):
            heard.append(progress)
            if number == stop_after:
                first.close()
        heard += train(folder, network(seed=7), fence=1)
        assert [p.epoch for p in heard if p.kind == "epoch"] == [1, 2, 3], stop_after
