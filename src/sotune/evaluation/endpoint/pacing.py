"""When the next request may go out: one clock for all threads."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Mapping


class Pacer:
    """Spaces requests evenly and holds all of them back when the server asks for it.

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

    def hold(self, seconds: float) -> None:
        """Lets no further request out for so many seconds."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def read_retry_after(headers: Mapping[str, str], *, now: float) -> float:
    """Returns how many seconds a server asks to wait, 0 where it does not say (RFC 9110, 10.2.3).

    Args:
        headers: The response's; ``Retry-After`` holds seconds or a date.
        now: Seconds since 1970.
    """
    text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
