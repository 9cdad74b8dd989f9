"""The patient leaves as it came: all kinds of networks, optimizers and steps, whatever is done to them in between."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from catdog.doctor import Culprit, Finding, Patient
from catdog.doctor.examination import examination
from catdog.doctor.patient import usual_step
from catdog.doctor.snapshot import Snapshot, digest, way_back
from catdog.doctor.visit import visit

BATCH = torch.linspace(-1, 1, 48).view(8, 6), torch.arange(8) % 2


class Odd(nn.Module):
    """Keeps state in every place that Python has."""

    __slots__ = ("__secret", "calls")
    seen: Tensor
    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.__secret = 0
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.idle = nn.Linear(2, 2)
        self.head.bias.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(6), persistent=False)
        self.register_buffer("positions", torch.arange(6.0).expand(4, -1))
        self.turned = nn.Parameter(torch.ones(6, dtype=torch.complex64))
        self.tied = self.first.weight
        self.queue: deque[Tensor] = deque(maxlen=3)
        self.notes: dict[str, Any] = {"losses": [], "last": torch.zeros(3)}
        self.rng, self.generator, self.array = np.random.default_rng(0), torch.Generator().manual_seed(0), np.zeros(4)

    @property
    def weight(self) -> Tensor:
        raise RuntimeError("Expected nobody to ask.")

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.seen += inputs.detach().sum(0)
        hidden = torch.relu(self.first(inputs)) * self.turned.abs() + 0 * self.positions[0]
        self.queue.append(hidden.detach())
        self.notes["losses"].append(self.calls)
        self.notes["last"] += 1
        self.array += self.rng.random() + torch.rand(1, generator=self.generator).item()
        self.hidden = hidden
        logits: Tensor = self.head(hidden)
        return logits


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def made(model: nn.Module, optimizer: Optimizer | None = None, **more: Any) -> Patient:
    optimizer = optimizer or Adam([one for one in model.parameters() if one.requires_grad], lr=0.01)
    return Patient(model, BATCH, nn.CrossEntropyLoss(), optimizer, **more)


def odd() -> Patient:
    return made(Odd())


def lazy() -> Patient:
    return made(nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)))


def old_weight_norm() -> Patient:
    with pytest.warns(FutureWarning):
        return made(nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 2)))


def parametrised() -> Patient:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 4)), parametrizations.weight_norm(nn.Linear(4, 2)))
    return made(model)


def hooked() -> Patient:
    model = small()
    seen: dict[str, Any] = {"calls": 0}
    model[0].register_forward_hook(lambda *call: seen.update(last=call[-1], calls=seen["calls"] + 1))
    weight: Any = model[0].weight
    weight.register_hook(lambda gradient: gradient * 0.5)
    return made(model)


def compiled() -> Patient:
    model: Any = torch.compile(small(), backend="eager")
    return made(model)


def scripted() -> Patient:
    with pytest.warns(FutureWarning):
        return made(torch.jit.script(small()))


def undeepcopyable() -> Patient:
    model: Any = small()
    model.events = (number for number in range(3))
    return made(model)


def several_groups() -> Patient:
    model = small()
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "weight_decay": 0.0},
        {"params": model[4].parameters()},
    ]
    optimizer = SGD(groups, lr=0.01, momentum=0.9)
    return made(model, optimizer, scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20))


def by_closure(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Any, optimizer: Optimizer) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        return float(value.item())

    optimizer.step(closure)


def lbfgs() -> Patient:
    model = small()
    return made(model, torch.optim.LBFGS(model.parameters(), max_iter=3), step=by_closure)


class Around(Optimizer):
    """An optimizer around another, as SAM and Lookahead are."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner, self.steps = inner, 0
        self.param_groups = inner.param_groups

    def step(self, *_: Any) -> None:  # type: ignore[override]
        self.inner.step()
        self.steps += 1


def around_another() -> Patient:
    model = small()
    return made(model, Around(SGD(model.parameters(), lr=0.1, momentum=0.9)))


def with_teacher() -> Patient:
    """The step alone knows of a teacher, a second optimizer, a scaler, a count."""
    model = small()
    teacher, auxiliary = AveragedModel(model), nn.Linear(2, 2)
    other, scaler = AdamW(auxiliary.parameters()), torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    count, history, lines = 0, SimpleNamespace(losses=[]), np.zeros(2)

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Any, optimizer: Optimizer) -> None:
        nonlocal count
        optimizer.zero_grad()
        value = loss(auxiliary(model(batch[0])), batch[1])
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        other.step()
        teacher.update_parameters(model)
        count += 1
        history.losses.append(value.item())
        lines[0] += random.random()

    patient = made(model, step=step)
    patient.scaler = scaler
    return patient


counted, averages = 0, {"loss": 0.0}
unheard_of: int


def counting_step(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Any, optimizer: Optimizer) -> None:
    global counted  # noqa: PLW0603 - as in many a notebook
    counted += 1
    averages["loss"] += usual_step(model, batch, loss, optimizer).item()


def with_globals() -> Patient:
    return made(small(), step=counting_step)


class Trainer:
    """Somebody's own loop."""

    def __init__(self) -> None:
        self.model, self.seen, self.best = small(), 0, {"loss": 9.0}
        self.optimizer = SGD(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)

    def step(self, _: nn.Module, batch: tuple[Tensor, Tensor], loss: Any, *more: Optimizer) -> None:
        assert more == (self.optimizer,)
        value = usual_step(self.model, batch, loss, self.optimizer)
        self.scheduler.step()
        self.seen += 1
        self.best["loss"] = min(self.best["loss"], value.item())


def with_trainer() -> Patient:
    trainer = Trainer()
    return made(trainer.model, trainer.optimizer, step=trainer.step)


def changing_its_input() -> Patient:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor], loss: Any, optimizer: Optimizer) -> None:
        batch[0].mul_(0.5)
        usual_step(model, batch, loss, optimizer)

    patient = made(small(), step=step)
    patient.batch = BATCH[0].clone(), BATCH[1]
    return patient


def sparse() -> Patient:
    model = nn.Sequential(nn.EmbeddingBag(6, 4, sparse=True), nn.Linear(4, 2))
    patient = made(model, SGD(model.parameters(), lr=0.1))
    patient.batch = (torch.arange(48).view(8, 6) % 6, BATCH[1])
    return patient


PATIENTS = (
    odd, lazy, old_weight_norm, parametrised, hooked, compiled, scripted, undeepcopyable, several_groups, lbfgs, around_another,
    with_teacher, with_globals, with_trainer, changing_its_input, sparse,
)


@pytest.fixture(params=PATIENTS, ids=lambda make: make.__name__)
def patient(request: pytest.FixtureRequest) -> Iterator[Patient]:
    torch.manual_seed(0)
    yield request.param()


def train(patient: Patient) -> None:
    for _ in range(3):
        patient.train_step()
        if patient.scheduler is not None:
            patient.scheduler.step()


def test_training_is_seen_and_undone(patient: Patient) -> None:
    before, snapshot = digest(patient), Snapshot.of(patient)
    assert digest(patient) == before
    train(patient)
    assert digest(patient) != before
    snapshot.restore()
    assert digest(patient) == before


def test_what_has_been_trained_is_kept_as_well(patient: Patient) -> None:
    train(patient)
    before, snapshot = digest(patient), Snapshot.of(patient)
    train(patient)
    snapshot.restore()
    train(patient)
    once = digest(patient)
    snapshot.restore()
    assert digest(patient) == before
    train(patient)
    assert digest(patient) == once


CHANGES: dict[str, Callable[[Any], object]] = {
    "a value": lambda model: model.head.weight.data.add_(1e-7),
    "a value that is not registered": lambda model: model.notes["last"].add_(1),
    "an expanded buffer": lambda model: model.positions[0].add_(1),
    "a gradient where there was none": lambda model: setattr(model.idle.weight, "grad", torch.ones(2, 2)),
    "a gradient": lambda model: model.head.weight.grad.add_(1),
    "no gradient any more": lambda model: model.zero_grad(),
    "a flag": lambda model: model.idle.eval(),
    "no gradient required": lambda model: model.head.weight.requires_grad_(False),
    "a gradient required": lambda model: model.head.bias.requires_grad_(True),
    "another precision": lambda model: model.double(),
    "another place": lambda model: setattr(model.head.weight, "data", model.head.weight.data.clone().add_(1)),
    "another layout": lambda model: setattr(model.first.weight, "data", model.first.weight.data.t().contiguous().t()),
    "a tie that is none any more": lambda model: setattr(model, "tied", nn.Parameter(model.first.weight.detach().clone())),
    "a buffer inside a graph": lambda model: model.seen.add_(model.head.weight.sum()),
    "an attribute": lambda model: setattr(model, "mode", "probe"),
    "an attribute less": lambda model: delattr(model, "notes"),
    "a private slot": lambda model: setattr(model, "_Odd__secret", 7),
    "a larger buffer": lambda model: model.seen.resize_(9),
    "a slot": lambda model: setattr(model, "calls", 7),
    "a hook": lambda model: model.head.register_forward_hook(lambda *_: None),
    "another kind": lambda model: setattr(model.head, "__class__", nn.Bilinear),
    "another module": lambda model: setattr(model, "head", nn.Identity()),
    "another order": lambda model: model._modules.update(first=model._modules.pop("first")),
    "a parametrisation": lambda model: parametrize.register_parametrization(model.head, "weight", nn.Softplus(), unsafe=True),
    "a deque": lambda model: model.queue.append(torch.ones(1)),
    "a number in a list": lambda model: model.notes["losses"].append(0.1),
    "an array": lambda model: model.array.fill(3),
    "NumPy's own generator": lambda model: model.rng.random(),
    "torch's own generator": lambda model: torch.rand(1, generator=model.generator),
    "the generator of torch": lambda _: torch.rand(1),
    "the generator of NumPy": lambda _: np.random.rand(),
    "the generator of Python": lambda _: random.random(),
    "whether gradients are recorded": lambda _: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_seen_and_undone(change: Callable[[Any], object]) -> None:
    patient = odd()
    patient.train_step()
    before, snapshot = digest(patient), Snapshot.of(patient)
    change(patient.model)
    assert digest(patient) != before
    snapshot.restore()
    assert digest(patient) == before
    patient.train_step()


OPTIMIZER_CHANGES: dict[str, Callable[[Any], object]] = {
    "a learning rate": lambda optimizer: optimizer.param_groups[0].update(lr=1.0),
    "a group": lambda optimizer: optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]}),
    "a parameter less": lambda optimizer: optimizer.param_groups[0]["params"].pop(),
    "no state": lambda optimizer: optimizer.state.clear(),
    "a moment": lambda optimizer: next(iter(optimizer.state.values()))["exp_avg"].mul_(2),
    "a saved state read": lambda optimizer: optimizer.load_state_dict(Adam(odd().model.parameters()).state_dict()),
    "a hook": lambda optimizer: optimizer.register_step_pre_hook(lambda *_: None),
    "another step": lambda optimizer: setattr(optimizer, "step", lambda: None),
}


@pytest.mark.parametrize("change", OPTIMIZER_CHANGES.values(), ids=OPTIMIZER_CHANGES)
def test_every_change_of_the_optimizer_is_seen_and_undone(change: Callable[[Any], object]) -> None:
    model = Odd()
    patient = made(model, Adam(model.parameters(), lr=0.01))
    patient.train_step()
    before, snapshot = digest(patient), Snapshot.of(patient)
    change(patient.optimizer)
    assert digest(patient) != before
    snapshot.restore()
    assert digest(patient) == before
    patient.train_step()


def test_things_keep_their_identity() -> None:
    patient = odd()
    patient.train_step()
    model: Any = patient.model
    held = [model.head.weight, model.head.weight.grad, model.seen, model.notes, model.notes["last"], patient.optimizer]
    places = [one.data_ptr() for one in held if isinstance(one, Tensor)]
    snapshot = Snapshot.of(patient)
    model.zero_grad()
    model.double()
    model.notes = {}
    snapshot.restore()
    again = [model.head.weight, model.head.weight.grad, model.seen, model.notes, model.notes["last"], patient.optimizer]
    assert all(one is other for one, other in zip(held, again, strict=True))
    assert places == [one.data_ptr() for one in held if isinstance(one, Tensor)]


def test_data_is_gone_through_but_not_copied() -> None:
    """A hundred thousand pictures in memory are nobody's state; the generator that augments them is."""
    class Pictures(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.pictures, self.rng, self.looks = torch.zeros(10), random.Random(0), 0

        def __getitem__(self, number: int) -> float:
            self.looks += 1
            return self.pictures[number].item() + self.rng.random()

    pictures = Pictures()
    patient = made(small(), evaluate=lambda *_: {"loss": pictures[0]})
    before, snapshot = digest(patient), Snapshot.of(patient)
    pictures.pictures += 1
    assert digest(patient) == before
    first = pictures[0]
    assert digest(patient) != before
    snapshot.restore()
    assert digest(patient) == before
    assert pictures.looks == 0
    assert pictures[0] == first


@examination("T99", "a careless one", catches="nothing")
def careless(patient: Patient) -> Iterator[Finding]:
    train(patient)
    if not isinstance(patient.model, torch.jit.ScriptModule):
        patient.model.register_forward_hook(lambda *_: None)
    patient.model.eval()
    torch.set_grad_enabled(False)
    yield from ()


@examination("T98", "one that fails", catches="nothing")
def failing(patient: Patient) -> Iterator[Finding]:
    train(patient)
    yield Finding("T98", "info", "halfway", Culprit("it"))
    raise RuntimeError("Expected.")


@examination("T97", "one that is interrupted", catches="nothing")
def interrupted(patient: Patient) -> Iterator[Finding]:
    train(patient)
    yield from ()
    raise KeyboardInterrupt


@examination("T96", "one that tells how the patient came", catches="nothing")
def telling(patient: Patient) -> Iterator[Finding]:
    yield Finding("T96", "info", digest(patient), Culprit("it"))


def test_a_patient_leaves_as_it_came(patient: Patient) -> None:
    before = digest(patient)
    report = visit(patient, (telling, careless, telling, failing, telling), budget=600)
    assert digest(patient) == before
    assert len({finding.message for finding in report.findings if finding.code == "T96"}) == 1
    assert [(one.code, one.severity) for one in report.findings if one.code != "T96"] == [("T98", "warning")]
    assert not report.not_run


def test_an_interrupted_visit_puts_back_what_it_has_done() -> None:
    patient = odd()
    before = digest(patient)
    with pytest.raises(KeyboardInterrupt):
        visit(patient, (interrupted,), budget=600)
    assert digest(patient) == before


def test_a_patient_whose_state_cannot_be_kept_is_not_touched() -> None:
    class Unreadable(Tensor):
        @classmethod
        def __torch_dispatch__(cls, *_: Any) -> Any:
            raise NotImplementedError("Expected nobody to read it.")

    model = small()
    model[0].register_buffer("strange", torch.zeros(2).as_subclass(Unreadable))
    report = visit(made(model), (careless,), budget=600)
    assert model.training
    assert set(report.not_run) == {"T99"}
    assert [(finding.code, finding.severity) for finding in report.findings] == [("S00", "warning")]


def test_an_examination_of_a_large_batch_may_change_it() -> None:
    """The doctor looks at eight images of it: what happens to these is put back between two examinations as well."""
    patient = changing_its_input()
    patient.batch = BATCH[0].repeat(3, 1), BATCH[1].repeat(3)
    report = visit(patient, (telling, careless, telling), budget=600)
    assert len({finding.message for finding in report.findings}) == 1


def test_what_is_compiled_is_examined_as_it_was_written() -> None:
    compilations = []

    def backend(graph: Any, _: Any) -> Any:
        compilations.append(graph)
        return graph

    model: Any = torch.compile(small(), backend=backend)
    torch.optim.SGD(model.parameters(), lr=0.1).step()  # from here on torch knows of compilers
    report = visit(made(model), (careless,), budget=600)
    assert report.passed == ("T99",)
    assert not compilations
    model(BATCH[0])
    assert compilations


def test_what_nobody_can_watch_is_said() -> None:
    report = visit(scripted(), (replace(careless, code="L99"), replace(careless, code="M99")), budget=600)
    assert report.passed == ("L99",)
    assert set(report.not_run) == {"M99"}


def test_lazy_networks_are_lazy_afterwards() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))

    @examination("T95", "shapes", catches="nothing")
    def shapes(patient: Patient) -> Iterator[Finding]:
        yield Finding("T95", "info", str([tuple(one.shape) for one in patient.model.parameters()]), Culprit("it"))

    report = visit(made(model), (shapes,), budget=600)
    assert report.findings[0].message == "[(4, 6), (4,), (2, 4), (2,)]"
    assert isinstance(model[0], nn.LazyLinear)
    assert is_lazy(model.get_parameter("2.weight"))


def test_a_thing_beside_the_patient_has_a_way_back_of_its_own() -> None:
    model = small()
    patient = made(model)
    average, other = AveragedModel(model), SGD([*model.parameters(), nn.Parameter(torch.ones(1))], lr=0.1)
    kept = [str(one.state_dict()) for one in (average, other, model)]
    ways = [way_back(thing, patient) for thing in (average, other)]
    patient.train_step()
    average.update_parameters(model)
    other.param_groups[0]["lr"] = 9.0
    for restore in ways:
        restore()
    assert kept[:2] == [str(one.state_dict()) for one in (average, other)]
    assert kept[2] != str(model.state_dict())
    assert other.param_groups[0]["params"][0] is model[0].weight


def test_a_variable_that_the_first_step_makes_is_gone_again() -> None:
    def step(*_: Any) -> None:
        global unheard_of  # noqa: PLW0603 - as in many a notebook
        unheard_of = 1

    patient = made(small(), step=step)
    before, snapshot = digest(patient), Snapshot.of(patient)
    patient.train_step()
    assert unheard_of == 1
    assert digest(patient) != before
    snapshot.restore()
    assert digest(patient) == before
    assert "unheard_of" not in globals()


def test_a_storage_can_be_resized_afterwards() -> None:
    tensor = torch.zeros(4)
    model = small()
    model.register_buffer("growing", tensor)
    assert visit(made(model), (telling,), budget=600).findings
    tensor.untyped_storage().resize_(64)
