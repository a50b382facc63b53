"""Who is told how long work goes."""

from __future__ import annotations

import logging
from typing import Protocol


class Monitor(Protocol):
    """Is told how the work goes; the command line draws bars with it."""

    def stage(self, name: str, status: str) -> None:
        """A stage begins (``running``) or is left alone (``skipped``)."""
        ...

    def progress(self, label: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` pieces of some long work are ready; ``total`` may be unknown."""
        ...

    def warn(self, message: str) -> None:
        """Something the user should know, which does not stop the work."""
        ...


class Silent:
    """A monitor that says nothing."""

    def stage(self, name: str, status: str) -> None:
        """Ignores a stage."""

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Ignores progress."""

    def warn(self, message: str) -> None:
        """Ignores a warning; the artefacts hold it all the same."""


def quiet_libraries() -> None:
    """Has bitsandbytes not warn of kernels for a CPU, as it does in each process wherever it is installed.

    For before it is loaded, as it is by PEFT. A level that somebody else gave it stays.
    """
    logger = logging.getLogger("bitsandbytes")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
