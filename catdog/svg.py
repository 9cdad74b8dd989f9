"""Box, Picture, shortened, width_of: an SVG document, made of a few marks, that needs nothing else and harms nobody.

No script, no font, no address. Text may be strangers': the template escapes all that is written, and what stands in attributes are
numbers, and words of catdog's own.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from catdog.labels import shown
from catdog.templates import template

LETTERS = 24
"""The longest label that is written in full."""


class Box(NamedTuple):
    """A rectangle, in the picture's units."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Mark:
    """One SVG element."""

    tag: str
    kind: str
    """Its classes; the template knows what they look like in light and in dark."""
    at: dict[str, str]
    text: str = ""
    title: str = ""
    """What a pointer that rests on it is told."""


@dataclass(slots=True)
class Picture:
    """Marks in the order they are drawn, over each other."""

    width: float
    height: float
    title: str
    about: str
    """What a person who cannot see it is told."""
    marks: list[Mark] = field(default_factory=list)

    def line(self, kind: str, *runs: Iterable[tuple[float, float]], dots: bool = False) -> None:
        """One path through the points of each run. `dots`: each run is one point."""
        through = ("M" + " ".join(f"{_at(x)} {_at(y)}" for x, y in run) + ("h0" if dots else "") for run in runs)
        self.path(kind, "".join(through))

    def path(self, kind: str, data: str, **more: str) -> None:
        """A path by its data, and more of its attributes."""
        self.marks.append(Mark("path", kind, {"d": data} | {name.replace("_", "-"): value for name, value in more.items()}))

    def box(self, kind: str, box: Box, *, opacity: float | None = None, title: str = "") -> None:
        """A rectangle."""
        at = {"x": _at(box.left), "y": _at(box.top), "width": _at(box.right - box.left), "height": _at(box.bottom - box.top)}
        self.marks.append(Mark("rect", kind, at if opacity is None else at | {"fill-opacity": f"{opacity:.2f}"}, title=title))

    def write(self, x: float, y: float, text: str, kind: str = "", *, size: float = 12, turn: float = 0, title: str = "") -> None:
        """Text whose base line begins, or by its kind ends or has its middle, at a point; turned around it."""
        at = {"x": _at(x), "y": _at(y)} | ({"font-size": _at(size)} if size != 12 else {})
        if turn:
            at["transform"] = f"rotate({_at(turn)} {_at(x)} {_at(y)})"
        self.marks.append(Mark("text", kind, at, text, title))

    def svg(self) -> str:
        """The whole document."""
        return template("plot.svg").render(
            width=_at(self.width), height=_at(self.height), title=shown(self.title), about=shown(self.about), marks=self.marks,
        )


def shortened(text: str, most: int = LETTERS) -> str:
    """At most so many letters, all visible, and an ellipsis where there were more."""
    text = shown(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def width_of(text: str, size: float = 12) -> float:
    """About how wide a text is: fonts differ, and nothing here depends on more."""
    return size * sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.56 for letter in text)


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
