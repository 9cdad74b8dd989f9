"""Bars, figures: Progress and metrics for people. One bar a phase on a terminal, one line a phase elsewhere."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from catdog.progress import Progress

SHOWN_LABELS = 10
"""More than these are not counted one by one on a terminal."""


class Bars:
    """Shows what a run says. Use as a context manager; anything printed meanwhile goes above the bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = RichProgress(
            TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False), console=console, disable=not console.is_terminal,
        )
        self._phase: str | None = None
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show one Progress."""
        if progress.phase is not None and progress.phase != self._phase:
            self._begin(progress.phase)
        if progress.result and "device" in progress.result:
            device = progress.result["device"]
            self._console.print(f"device: {device['name']} ({device['reason']})", highlight=False, markup=False)
        if progress.result and "pictures" in progress.result:
            self._console.print(f"pictures: {_pictures(progress.result['pictures'])}", highlight=False, markup=False, soft_wrap=True)
        if progress.kind in ("warning", "finding") and progress.message:
            self._console.print(f"{progress.kind}: {progress.message}", highlight=False, markup=False)
        if self._bar is not None and progress.steps:
            self._bars.update(self._bar, completed=progress.step or 0, total=progress.steps, note=_note(progress))

    def _begin(self, phase: str) -> None:
        if self._bar is not None:
            total = self._bars.tasks[self._bars.task_ids.index(self._bar)].total or 1
            self._bars.update(self._bar, completed=total, total=total)
        if not (self._console.is_terminal or self._console.stderr):  # standard error in a file is for what went wrong
            self._console.print(f"phase: {phase}", highlight=False)
        self._phase = phase
        self._bar = self._bars.add_task(phase, total=None, note="")


def figures(split: str, metrics: dict[str, Any]) -> Iterator[str]:
    """Lines that say how well a split was answered, as Measures.to_dict gives it: as a whole, then for each label unless there are many."""
    yield (
        f"{split}: accuracy {metrics['accuracy']:.4f}, balanced accuracy {metrics['balanced_accuracy']:.4f} on {metrics['images']} images"
    )
    by_label = metrics.get("by_label", {})
    for label, one in by_label.items() if len(by_label) <= SHOWN_LABELS else ():
        yield f"  {label}: precision {one['precision']:.4f}, recall {one['recall']:.4f}, F1 {one['f1']:.4f} on {one['images']} images"


def _pictures(pictures: dict[str, Any]) -> str:
    """How many of each split, and of each label as long as a reader wants to see them all."""
    parts = []
    for split, images in pictures["images"].items():
        by_label = pictures.get("counts", {}).get(split, {})
        few = f" ({', '.join(f'{label} {number}' for label, number in by_label.items())})" if 0 < len(by_label) <= SHOWN_LABELS else ""
        parts.append(f"{split} {images}{few}")
    return f"{', '.join(parts)}; balance {pictures['balance']}"


def _note(progress: Progress) -> str:
    parts = []
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch}/{progress.epochs}")
    if progress.train_loss is not None:
        parts.append(f"loss {progress.train_loss:.4f}")
    if progress.train_accuracy is not None:
        parts.append(f"accuracy {progress.train_accuracy:.3f}")
    if progress.val_accuracy is not None:
        parts.append(f"val {progress.val_accuracy:.3f}")
    if progress.val_balanced_accuracy is not None:
        parts.append(f"balanced {progress.val_balanced_accuracy:.3f}")
    return ", ".join(parts)
