"""Bars: Progress for people. One bar a phase on a terminal, one line a phase elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from catdog.progress import Progress


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
        if progress.kind in ("warning", "finding") and progress.message:
            self._console.print(f"{progress.kind}: {progress.message}", highlight=False, markup=False)
        if self._bar is not None and progress.steps:
            self._bars.update(self._bar, completed=progress.step or 0, total=progress.steps, note=_note(progress))

    def _begin(self, phase: str) -> None:
        if self._bar is not None:
            total = self._bars.tasks[self._bars.task_ids.index(self._bar)].total or 1
            self._bars.update(self._bar, completed=total, total=total)
        if not self._console.is_terminal:
            self._console.print(f"phase: {phase}", highlight=False)
        self._phase = phase
        self._bar = self._bars.add_task(phase, total=None, note="")


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
    return ", ".join(parts)
