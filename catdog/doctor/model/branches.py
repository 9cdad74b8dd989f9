"""M01 to M05: what is computed and thrown away, never computed, or computed where no gradient comes.

The seed of this project tells of a U-Net in production whose forward ended in `y = self.conv1(x1)` instead of `x1_up`: most of the
network was computed and thrown away, for months, and nobody noticed. A parameter is suspected where the loss is not made of it; it is
accused only where further steps, the real backward and noise in its module's output say the same.
"""

import inspect
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from catdog.doctor.examination import Examination, examination
from catdog.doctor.findings import Culprit, Finding, Severity
from catdog.doctor.model.evidence import Evidence, is_in, owner, tops
from catdog.doctor.model.hidden import hidden, hidden_modules
from catdog.doctor.model.trace import Call, behind, eager
from catdog.doctor.patient import Patient, matches
from catdog.doctor.source import Place, Statement, class_place, forward_names, line_naming

SMALL = 0.001
"""Share of the trainable parameters below which a dead branch is a warning, if it also costs less than CHEAP of the FLOPs."""
CHEAP = 0.01
MOST = 0.5
"""Share of the parameters from which a head that is returned and not in the loss is an error."""



@examination(
    "M01", "dead branch", catches="A module runs, and nothing of what it returns is in the loss.", needs=("loss",), passes=2, of_large=True,
)
def dead_branch(patient: Patient) -> Iterator[Finding]:
    """Parameters that the loss does not reach, in modules that ran: computed and thrown away."""
    evidence = Evidence.of(patient)
    unused = [name for name in evidence.unreached if not patient.intent.waives(name)]
    roots = evidence.roots([name for name in unused if not evidence.is_returned(name)])
    dead = [root for root in roots if not evidence.changes_loss([root])] if roots and evidence.changes_loss(roots) else roots
    if not dead:
        return
    names = [name for name in evidence.unreached if any(is_in(name, root) for root in dead)]
    parameters, flops = evidence.share(names), evidence.flops(dead)
    sinks = _sinks(evidence, dead)
    discarded = [line for sink in sinks for line in _told(evidence, sink)]
    backwards = len(evidence.traces)
    yield Finding(
        "M01", "error" if parameters >= SMALL or (flops or 0) >= CHEAP else "warning",
        f"Dead branch: {len(dead)} of {_siblings(evidence, dead)} blocks are computed and thrown away",
        Culprit(", ".join(dead), _line(sinks), parameters, flops),
        (
            *discarded,
            f"no gradient for {len(names)} of {sum(p.requires_grad for p in evidence.network.parameters())} tensors in {backwards} steps",
            f"noise in what {'it returns' if len(dead) == 1 else 'they return'} changes the loss by exactly 0",
        ),
        _remedy(evidence, sinks),
    )


@examination(
    "M02", "never run", catches="A module or parameter is registered, and no step ever uses it.", needs=("loss",), passes=2, of_large=True,
)
def never_run(patient: Patient) -> Iterator[Finding]:
    """Parameters whose module never ran, or that no module that ran has looked at."""
    evidence = Evidence.of(patient)
    ran = evidence.ran
    unused = [name for name in evidence.unreached if owner(name) not in ran or evidence.is_idle(name)]
    for waiver in patient.intent.unused_ok:
        if not any(matches(name, (waiver,)) for name in _names(evidence.network)):
            yield Finding("M02", "warning", "A waiver matches nothing", Culprit(waiver), (), "Take it out of unused_ok.")
    unused = [name for name in unused if not patient.intent.waives(name)]
    in_evaluation = _ran_in_evaluation(patient) if unused else set()
    for root in tops(unused, lambda path: not any(is_in(other, path) for other in ran)):
        names = [name for name in unused if is_in(name, root)]
        parent = evidence.network.get_submodule(owner(root))
        attribute = root.rpartition(".")[2]
        place = class_place(type(parent), attribute)
        if root in in_evaluation and evidence.is_complete:
            severity: Severity = "error"
            message = "Used untrained: it runs in evaluation, and never in a training step"
        else:
            severity = "error" if evidence.is_complete and _is_forgotten(evidence, parent, root) else "warning"
            message = "Never run: it is registered, and no step uses it"
        yield Finding(
            "M02", severity, message, Culprit(root, str(place) if place else None, evidence.share(names)),
            (f"no call and no gradient in {len(evidence.traces)} steps, of {len(names)} tensors",),
            f"Use self.{attribute} in {type(parent).__name__}.forward, or delete it; if it is meant to stay, say unused_ok=({root!r},).",
        )


@examination(
    "M03", "gradient cut", catches="What a module returns is in the loss, and the gradient does not come back to it.", needs=("loss",),
    passes=2, of_large=True,
)
def gradient_cut(patient: Patient) -> Iterator[Finding]:
    """Modules that ran, that nobody said are not to be trained, and that the loss depends on without a gradient."""
    evidence = Evidence.of(patient)
    meant = _meant(patient, evidence.network)
    roots = evidence.roots([name for name in evidence.unreached if name in meant and not evidence.is_returned(name)])
    cut = [root for root in roots if evidence.changes_loss([root])] if roots and evidence.changes_loss(roots) else []
    if not cut:
        return
    names = [name for name in evidence.unreached if any(is_in(name, root) for root in cut)]
    last, first = _gap(evidence, cut)
    without = all(not call.nodes for root in cut for call in evidence.ran[root])
    cutter = _cutter(last, first)
    yield Finding(
        "M03", "error", f"The gradient stops between {cut[-1]} and {first.path if first else 'the loss'}",
        Culprit(", ".join(cut), str(cutter or (last.place if last else None) or "") or None, evidence.share(names)),
        (
            f"no gradient for {len(names)} tensors in {len(evidence.traces)} steps, and noise in what they return changes the loss",
            *(["they run without gradient: under no_grad or inference_mode"] if without else []),
            *([f"the line: {cutter.text}"] if cutter is not None else []),
        ),
        "Take away the detach, data, no_grad, numpy or item between them; or say that it is not to be trained: requires_grad_(False).",
    )


@examination(
    "M04", "head not in the loss", catches="The network returns what the loss ignores.", needs=("loss",), passes=2, of_large=True,
)
def head_not_in_loss(patient: Patient) -> Iterator[Finding]:
    """Parameters behind what is returned and not behind the loss."""
    evidence = Evidence.of(patient)
    names = [name for name in evidence.unreached if evidence.is_returned(name) and not patient.intent.waives(name)]
    if not names:
        return
    share = evidence.share(names)
    roots = tops(names, lambda path: not any(trace.is_live(path) for trace in evidence.traces))
    yield Finding(
        "M04", "error" if share > MOST else "warning", "Returned, and not in the loss: it is computed and never trained",
        Culprit(", ".join(roots), parameters=share), (f"no gradient for {len(names)} tensors in {len(evidence.traces)} steps",),
        "Put it into the loss, or do not compute it while training.",
    )


@examination(
    "M05", "discarded result", catches="What a module without parameters returns is thrown away.", needs=("loss",), passes=2, of_large=True,
)
def discarded_result(patient: Patient) -> Iterator[Finding]:
    """Calls such as `self.drop(x)` whose value goes nowhere."""
    evidence = Evidence.of(patient)
    dead = evidence.roots(list(evidence.unreached))
    for path in evidence.discarded:
        call = evidence.ran[path][0]
        if any(is_in(path, root) for root in dead) or patient.intent.waives(path) or evidence.changes_loss([path]):
            continue
        statement = Statement.at(call.place) if call.place else None
        unused = statement is not None and (statement.is_bare or not any(map(statement.later_reads, statement.assigned)))
        mine = call.place is not None and not call.place.is_library
        yield Finding(
            "M05", "error" if unused and mine and evidence.is_complete else "warning",
            f"The result of {type(evidence.network.get_submodule(path)).__name__} is thrown away",
            Culprit(path, str(call.place) if call.place else None),
            (f"the line: {call.place.text if call.place else 'unknown'}", "noise in what it returns changes the loss by exactly 0"),
            f"Use what it returns: x = self.{path.rpartition('.')[2]}(x).",
        )


def _meant(patient: Patient, network: nn.Module) -> set[str]:
    """Names of the parameters that somebody means to train."""
    if patient.intent.trainable is not None:
        return {name for name, _ in network.named_parameters() if any(fnmatchcase(name, glob) for glob in patient.intent.trainable)}
    held = {id(tensor) for group in patient.optimizer.param_groups for tensor in group["params"]} if patient.optimizer else None
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad and (held is None or id(parameter) in held)}


def _names(network: nn.Module) -> Iterator[str]:
    """Of everything that a waiver may be meant for."""
    for named in (network.named_parameters(), network.named_modules(), hidden(network), hidden_modules(network)):
        yield from (name for name, *_ in named)


def _siblings(evidence: Evidence, dead: Sequence[str]) -> int:
    """How many modules with parameters there are beside the dead ones."""
    parents = {owner(path) for path in dead}
    named = [f"{parent}.{child}".strip(".") for parent in parents for child, _ in evidence.network.get_submodule(parent).named_children()]
    return max(len(dead), sum(next(evidence.network.get_submodule(path).parameters(), None) is not None for path in named))


def _sinks(evidence: Evidence, dead: Sequence[str]) -> list[Call]:
    """The dead calls from which nothing flows to another dead call."""
    calls = [call for path in dead for call in evidence.ran[path]]
    fed = {node for call in calls for node in behind(call.sources)}
    return [call for call in calls if not fed.intersection(call.nodes)] or calls[-1:]


def _line(sinks: Sequence[Call]) -> str | None:
    return next((str(call.place) for call in sinks if call.place is not None), None)


def _told(evidence: Evidence, sink: Call) -> Iterator[str]:
    """Which value is discarded where, and where it should have been used."""
    if sink.place is None:
        return
    statement = Statement.at(sink.place)
    if statement is None:
        yield f"discarded: what {sink.path} returns   {sink.place}"
        return
    never = [name for name in statement.assigned if not statement.later_reads(name)]
    nowhere = "its value goes nowhere" if statement.is_bare else "it does not reach the loss"
    fate = f"{', '.join(never)} is assigned, never read" if never else nowhere
    yield f"discarded: {sink.place.text}   {sink.place}, {fate}"
    if (user := _user(evidence, sink)) is not None and user.place is not None:
        yield f"the loss reads: {user.place.text}   {user.place}"
        if (name := _mistaken(statement, user)) and never:
            yield f"{name} and {never[0]} have the same shape {list(sink.outputs[0])}: did you mean {never[0]}?"


def _user(evidence: Evidence, sink: Call) -> Call | None:
    """The next live call in the same function that takes something of the shape that was discarded."""
    if sink.place is None or not sink.outputs:
        return None
    after = [
        call for trace in evidence.traces[:1] for call in trace.calls
        if call.place is not None and (call.place.file, call.place.function) == (sink.place.file, sink.place.function)
        and call.place.line > sink.place.line and trace.reached.intersection(call.nodes)
    ]
    return next((call for call in after if sink.outputs[0] in call.inputs), None)


def _mistaken(statement: Statement, user: Call) -> str | None:
    """The name that the live call reads where it should have read what was discarded."""
    there = Statement.at(user.place) if user.place else None
    names = [name for name in (there.read if there else []) if name not in ("self", *statement.assigned)]
    return names[0] if names else None


def _remedy(evidence: Evidence, sinks: Sequence[Call]) -> str:
    for sink in sinks:
        statement = Statement.at(sink.place) if sink.place else None
        user = _user(evidence, sink)
        if statement and statement.assigned and user is not None and user.place is not None:
            return f"Use {statement.assigned[0]} at {user.place}, or delete what is not needed."
    return "Use what they return in what forward returns, or delete them; if they are meant to be there, say unused_ok."


def _is_forgotten(evidence: Evidence, parent: nn.Module, root: str) -> bool:
    """Whether the class whose forward ran is the very class that registers it, and its forward does not so much as name it."""
    path, _, attribute = root.rpartition(".")
    kind = type(parent)
    if path not in evidence.ran or forward_names(kind, attribute) is not False:
        return False
    runs = next(each for each in kind.__mro__ if "forward" in vars(each))
    mine = not Path(inspect.getfile(runs)).is_relative_to(Path(torch.__file__).parents[1])
    return mine and class_place(runs, attribute, inherited=False) is not None


def _ran_in_evaluation(patient: Patient) -> set[str]:
    network, ran = eager(patient.model), set[str]()
    handles = [module.register_forward_hook(lambda *_, path=path: ran.add(path)) for path, module in network.named_modules()]
    network.eval()
    try:
        with torch.no_grad():
            network(patient.batch[0])
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _gap(evidence: Evidence, cut: Sequence[str]) -> tuple[Call | None, Call | None]:
    """The last call of a cut module, and the first live call behind it."""
    calls = evidence.traces[0].calls
    lasts = [position for position, call in enumerate(calls) if call.path in cut]
    if not lasts:
        return None, None
    live = [call for call in calls[lasts[-1] + 1 :] if evidence.traces[0].reached.intersection(call.nodes) and call.path]
    return calls[lasts[-1]], live[0] if live else None


_CUTS = ("detach", "data", "no_grad", "inference_mode", "numpy", "item", "argmax", "tolist", "tensor", "from_numpy", "round", "sign")


def _cutter(last: Call | None, first: Call | None) -> Place | None:
    """The line between two calls, in the function of the first, that can cut a gradient."""
    if last is None or last.place is None:
        return None
    there = first.place if first is not None and first.place is not None and first.place.function == last.place.function else None
    return line_naming(last.place, _CUTS, until=there.line if there is not None else None)


EXAMINATIONS: tuple[Examination, ...] = (dead_branch, never_run, gradient_cut, head_not_in_loss, discarded_result)
