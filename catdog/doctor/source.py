"""Place, caller, callers, module_caller, defined_at, Statement: which line of whose code did it, and what that line says.

Lines are read from the files that Python itself would show in a traceback. Where there is no file (a notebook's cell that has gone,
code from a string) a place still has its name and number, and nothing is said of its text.
"""

import ast
import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

_OWN = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_STANDARD = str(Path(ast.__file__).parent)
_THROUGH = {"_call_impl", "_wrapped_call_impl"}
"""Names of torch's functions between the line that calls a module and its forward."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"

    @property
    def text(self) -> str:
        """The line, stripped; empty where there is no file."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def code(self) -> str:
        """The line without its comment."""
        return self.text.partition("#")[0].strip()

    @property
    def is_library(self) -> bool:
        """Whether it is installed code rather than the user's own."""
        return "site-packages" in Path(self.file).parts or self.file.startswith(_TORCH)


def caller() -> Place | None:
    """The innermost line on the way here that is neither torch's nor the doctor's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OWN, _TORCH, "<")):
            return Place(file, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


def callers(most: int = 4) -> tuple[Place, ...]:
    """The lines on the way here that are neither torch's nor the doctor's nor installed, the innermost first."""
    found: list[Place] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(found) < most:
        place = Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        if not place.file.startswith((_OWN, _TORCH, "<")) and not place.is_library:
            found.append(place)
        frame = frame.f_back
    return tuple(found)


def module_caller(module: nn.Module) -> Place | None:
    """The line that called `module`: in the forward of the innermost other module that is not merely a container; else `caller()`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        is_container = code.co_filename.endswith("container.py") and code.co_filename.startswith(_TORCH)
        if isinstance(first, nn.Module) and first is not module and code.co_name not in _THROUGH and not is_container:
            return Place(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return caller()


def defined_at(function: Any) -> Place | None:
    """Where a function, a method, a partial of one or the `__call__` of an object is written; None for what is no Python code."""
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(vars(type(function)).get("__call__"), "__code__", None)
    if code is None and isinstance(function, nn.Module):
        code = type(function).forward.__code__
    return Place(code.co_filename, code.co_firstlineno, code.co_name) if isinstance(code, CodeType) else None


@lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def parsed(file: str) -> ast.Module | None:
    """The syntax tree of a file, or None where it cannot be read."""
    linecache.checkcache(file)
    return _parsed("".join(linecache.getlines(file)))


@dataclass(frozen=True, slots=True)
class Statement:
    """The statement at a place, and the function that it stands in."""

    node: ast.stmt
    function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Module

    @classmethod
    def at(cls, place: Place) -> "Statement | None":
        """The innermost simple statement that covers a place's line; None where there is no text."""
        if (tree := parsed(place.file)) is None:
            return None
        covering = [
            cls(node, function) for function in (tree, *_functions(tree)) for node in ast.walk(function)
            if isinstance(node, ast.stmt) and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and node.lineno <= place.line <= (node.end_lineno or node.lineno)
        ]
        # The shortest statement; of the functions that it stands in, which were gone through from the outside in, the last.
        return min(reversed(covering), key=lambda one: _length(one.node), default=None)

    @property
    def assigned(self) -> list[str]:
        """The plain names it gives a value."""
        targets = self.node.targets if isinstance(self.node, ast.Assign) else [getattr(self.node, "target", None)]
        nodes = [node for target in targets if target is not None for node in ast.walk(target)]
        return [node.id for node in nodes if isinstance(node, ast.Name)]

    @property
    def is_bare(self) -> bool:
        """Whether it is an expression whose value goes nowhere."""
        return isinstance(self.node, ast.Expr)

    @property
    def read(self) -> list[str]:
        """The plain names whose values it uses."""
        return [node.id for node in ast.walk(self.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]

    def later_reads(self, name: str) -> list[int]:
        """The lines of the same function, behind this statement and before the name has another value, that read it."""
        end = self.node.end_lineno or self.node.lineno
        names = [node for node in ast.walk(self.function) if isinstance(node, ast.Name) and node.id == name and node.lineno > end]
        anew = min((node.lineno for node in names if isinstance(node.ctx, ast.Store)), default=sys.maxsize)
        return sorted(node.lineno for node in names if isinstance(node.ctx, ast.Load) and node.lineno <= anew)


def making(name: str, files: Iterable[str], *, lr: float | None = None) -> Place | None:
    """The one call of that name in some files: where an optimizer of that class is made; of several the one with that literal `lr`."""
    found = []
    for file in dict.fromkeys(files):
        for node in ast.walk(parsed(file) or ast.Module([], [])):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and name in (getattr(called, "attr", None), getattr(called, "id", None)):
                rates = [word.value.value for word in node.keywords if word.arg == "lr" and isinstance(word.value, ast.Constant)]
                found.append((Place(file, node.lineno, "<module>"), rates))
    exact = [one for one in found if lr in one[1]]
    chosen = exact if len(exact) == 1 else found
    return chosen[0][0] if len(chosen) == 1 else None


def files_here() -> list[str]:
    """The user's own files that the present call comes from, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    files = []
    while frame is not None:
        if is_own(frame.f_code.co_filename):
            files.append(frame.f_code.co_filename)
        frame = frame.f_back
    return list(dict.fromkeys(files))


def is_own(file: str) -> bool:
    """Whether it is a user's own code: neither torch's, nor the doctor's, nor anything installed."""
    return not file.startswith((_OWN, _TORCH, _STANDARD, "<")) and not {"site-packages", "dist-packages"} & set(Path(file).parts)


def expressions(code: CodeType) -> Iterator[ast.expr]:
    """The expressions of a function that stand as statements of their own: `loss.backward` without brackets is one."""
    tree = parsed(code.co_filename)
    for function in _functions(tree) if tree is not None else []:
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        if function.name == code.co_name and first == code.co_firstlineno:
            yield from (node.value for node in ast.walk(function) if isinstance(node, ast.Expr))


def bare_attributes(code: CodeType) -> Iterator[tuple[str, int]]:
    """(name, line) of what a function looks up and does not call: ("backward", 12) of a line `loss.backward`."""
    for expression in expressions(code):
        if isinstance(expression, ast.Attribute):
            yield expression.attr, expression.lineno


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno


def class_place(owner: type, attribute: str, *, inherited: bool = True) -> Place | None:
    """The line of the class, or of one that it inherits from, that says `self.attribute = `."""
    for each in owner.__mro__ if inherited else (owner,):
        for function, nodes in _methods(each):
            for node in nodes:
                if isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Store):
                    return Place(function.file, node.lineno, function.function)
    return None


def forward_names(owner: type, attribute: str) -> bool | None:
    """Whether the class whose forward runs names `self.attribute` in it, or in a method that it calls; None: its text cannot be read.

    A method that looks attributes up by a computed name, or goes through all children, counts as naming every one.
    """
    runs = next(each for each in owner.__mro__ if "forward" in vars(each))
    methods = {place.function: nodes for place, nodes in _methods(runs)}
    if "forward" not in methods:
        return None
    seen: set[str] = set()
    waiting = ["forward"]
    while waiting:
        seen.add(method := waiting.pop())
        for node in methods[method]:
            said = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
            if said == attribute or said in _ANY or (isinstance(node, ast.Constant) and node.value == attribute):
                return True
            if said in methods and said not in seen:
                waiting.append(said)
    return False


_ANY = {
    "getattr", "vars", "children", "named_children", "modules", "named_modules", "_modules", "parameters", "named_parameters",
    "get_submodule", "get_parameter", "__dict__", "super",
}
"""Names by which a method can mean any attribute."""


def _methods(owner: type) -> Iterator[tuple[Place, list[ast.AST]]]:
    """The methods that stand in a class, each with all its nodes."""
    module = sys.modules.get(owner.__module__)
    tree = parsed(file) if (file := getattr(module, "__file__", None)) else None
    for node in ast.walk(tree) if tree is not None else []:
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__:
            for function in node.body:
                if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield Place(str(file), function.lineno, function.name), list(ast.walk(function))


def line_naming(place: Place, names: Sequence[str], *, until: int | None = None) -> Place | None:
    """The first line that speaks of one of `names`: of the `with` around a place, or of its function from the place to line `until`."""
    statement = Statement.at(place)
    if statement is None:
        return None
    around = [
        item.context_expr for node in ast.walk(statement.function) if isinstance(node, (ast.With, ast.AsyncWith))
        if node.lineno <= place.line <= (node.end_lineno or node.lineno) for item in node.items
    ]
    inside = [node for expression in around for node in ast.walk(expression)]
    behind = [node for node in ast.walk(statement.function) if place.line <= getattr(node, "lineno", 0) <= (until or sys.maxsize)]
    for node in (*inside, *sorted(behind, key=lambda node: getattr(node, "lineno", 0))):
        if isinstance(node, (ast.Attribute, ast.Name)) and (node.attr if isinstance(node, ast.Attribute) else node.id) in names:
            return Place(place.file, node.lineno, place.function)
    return None
