"""When the next request may go out: one clock for all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pacer:
    """Spaces requests evenly.

    Args:
        requests_per_minute: The most requests of any minute; None for no limit.
        sleep: Waits for so many seconds.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        *,
        sleep: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock()

    def wait_turn(self) -> None:
        """Returns when a request may go out."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._spacing
        if turn > now:
            self._sleep(turn - now)
