"""Ctrl-C, and the signal by which a scheduler warns: work ends where it can be taken up again.

Either is raised as `Stopped` at once, except in `patiently`: there it is noted, and the work itself ends at its next
step, with a checkpoint. A second one always ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(BaseException):
    """The work was told to stop; no `Exception`, since nobody should mistake it for a failure of the work.

    Attributes:
        signum: The signal.
        kept: What is kept, in words, where the work itself knows; empty otherwise.
        told: What was being done and what of it is kept, in words, the innermost first.
    """

    def __init__(self, signum: int, kept: str = "") -> None:
        super().__init__(signum, kept)
        self.signum, self.kept = signum, kept
        self.told: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + self.signum

    def tell(self, work: str, survives: str) -> None:
        """Adds what was being done, and what is kept of such work unless the work itself knows better."""
        self.told += (f"{work}: {self.kept or survives}",)
        self.kept = ""

    def __str__(self) -> str:
        name = _NAMES.get(signal.Signals(self.signum), signal.Signals(self.signum).name)
        return "; ".join([f"stopped by {name}", *self.told])


class _State:
    """What was asked of this process, and whether it asks by itself."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.patient = 0


_state = _State()


@contextlib.contextmanager
def stops_handled(*, repeated: bool = True) -> Iterator[None]:
    """Has the signals raise `Stopped` meanwhile; does nothing outside the main thread, or where they are ignored.

    Args:
        repeated: Whether a second signal counts, and ends patient work at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in SIGNALS}
    _state.asked = None
    for one, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(one, _handle if repeated else _handle_once)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        _state.asked = None


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Has a first signal wait until the work calls `stop_if_asked`."""
    _state.patient += 1
    try:
        yield
    finally:
        _state.patient -= 1


def asked() -> int:
    """Returns the signal that waits, or 0."""
    return _state.asked or 0


def ask(signum: int) -> None:
    """Notes that the work is to stop, as where another process of it was told to; 0 changes nothing."""
    _state.asked = _state.asked or signum or None


def stop_if_asked(kept: str = "") -> None:
    """Ends the work if a signal waits.

    Args:
        kept: What is kept of it, in words.

    Raises:
        Stopped: One does.
    """
    if _state.asked is not None:
        signum, _state.asked = _state.asked, None
        raise Stopped(signum, kept)


def _handle(signum: int, _: FrameType | None) -> None:
    if _state.patient and _state.asked is None:
        _state.asked = signum
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step, with a checkpoint; once more stops at once\n")
        return
    _state.asked = None
    raise Stopped(signum)


def _handle_once(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)
    _handle(signum, frame)
