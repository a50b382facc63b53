"""Progress bars on standard error and in notebooks."""

from __future__ import annotations

import contextlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from sotune import processes
from sotune.monitoring import Monitor, Silent


class ConsoleMonitor:
    """Draws progress on a console, or in the notebook that the console stands for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=console.is_jupyter and importlib.util.find_spec("ipywidgets") is None,  # rich would warn each time
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ConsoleMonitor:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def stage(self, name: str, status: str) -> None:
        """Says that a stage begins, or that it is up to date."""
        self._clear()
        mark = ("is up to date", "dim") if status == "skipped" else "…"
        self._console.print(Text.assemble(plain_text(name, "bold"), " ", mark))

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Moves the bar of one piece of work."""
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(printable(label), total=total)
        self._progress.update(self._tasks[label], completed=done, total=total)

    def warn(self, message: str) -> None:
        """Prints a warning."""
        self._console.print(Text.assemble(("warning:", "yellow"), " ", plain_text(message)))

    def _clear(self) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


class LineMonitor:
    """Says how work goes in lines: for logs, and wherever no bar can be drawn.

    Args:
        write: Takes one line, without its end.
        every: Least number of seconds between two lines about one piece of work.
    """

    def __init__(self, write: Callable[[str], None], *, every: float = 30.0) -> None:
        self._write, self._every = write, every
        self._paces: dict[str, _Pace] = {}

    def stage(self, name: str, status: str) -> None:
        """Says that a stage begins, or that it is up to date."""
        self._paces.clear()
        self._say(f"{name} is up to date" if status == "skipped" else f"{name} …")

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Says how far a piece of work is, if nothing was said of it for long enough."""
        now = time.monotonic()
        pace = self._paces.setdefault(label, _Pace(now, done, now))
        if now - pace.last_told >= self._every:
            pace.last_told = now
            self._say(f"{label}: {pace.describe(now, done, total)}")

    def warn(self, message: str) -> None:
        """Says a warning."""
        self._say(f"warning: {message}")

    def error(self, message: str) -> None:
        """Says why the work ended."""
        self._say(f"error: {message}")

    def _say(self, text: str) -> None:
        self._write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text)}")


@dataclass
class _Pace:
    """When a piece of work was first heard of, how far it was then, and when it was last told of."""

    began: float
    done_before: int
    last_told: float

    def describe(self, now: float, done: int, total: int | None) -> str:
        if total is None:
            return f"{done:,}"
        told = f"{done:,} of {total:,} ({done / max(total, 1):.0%})"
        if (gained := done - self.done_before) <= 0:
            return told
        minutes = (now - self.began) / gained * (total - done) / 60
        return f"{told}, about {minutes:.0f} min left" if minutes >= 1 else f"{told}, less than a minute left"


class Both:
    """A monitor that tells two others."""

    def __init__(self, first: Monitor, second: Monitor) -> None:
        self._monitors = (first, second)

    def stage(self, name: str, status: str) -> None:
        """Tells both."""
        for monitor in self._monitors:
            monitor.stage(name, status)

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Tells both."""
        for monitor in self._monitors:
            monitor.progress(label, done, total)

    def warn(self, message: str) -> None:
        """Tells both."""
        for monitor in self._monitors:
            monitor.warn(message)


class WarningsMonitor(Silent):
    """Shows no progress and hands warnings to Python's own."""

    def warn(self, message: str) -> None:
        """Raises a Python warning, which a script's filters may silence or turn into an error."""
        warnings.warn(message, stacklevel=2)


@contextlib.contextmanager
def watched(monitor: Monitor | None) -> Iterator[Monitor]:
    """Yields the monitor given, or else one that draws bars where somebody sees them: in a terminal or a notebook."""
    console = Console(stderr=True)
    if monitor is not None:
        yield monitor
    elif not processes.is_main():
        yield Silent()
    elif console.is_terminal or console.is_jupyter:
        with ConsoleMonitor(console) as drawn:
            yield drawn
    else:
        yield WarningsMonitor()


def plain_text(text: str, style: str = "") -> Text:
    """Returns text that is printed as it is: nothing in it is markup, an emoji's name, or steers a terminal."""
    return Text(printable(text), style=style)


def printable(text: str) -> str:
    """Returns text without the control characters that could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
