"""What a service counts, as Prometheus reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counters:
    """Jobs by HTTP status, rows, kept rows, and how long jobs took; of one event loop."""

    def __init__(self) -> None:
        self.n_rows, self.n_kept = 0, 0
        self._jobs: Counter[int] = Counter()
        self._buckets = [0] * len(_BOUNDS)
        self._seconds = 0.0

    def note(self, status: int, seconds: float, *, n_rows: int = 0, n_kept: int = 0) -> None:
        """Counts one job."""
        self._jobs[status] += 1
        self.n_rows += n_rows
        self.n_kept += n_kept
        self._seconds += seconds
        for place, bound in enumerate(_BOUNDS):
            self._buckets[place] += seconds <= bound

    @property
    def n_jobs(self) -> int:
        """All jobs, refused ones too."""
        return self._jobs.total()

    def lines(self, *, n_waiting: int) -> Iterator[str]:
        """Yields the text exposition format, line by line."""
        yield from ("# HELP sotune_jobs_total Jobs by HTTP status.", "# TYPE sotune_jobs_total counter")
        yield from (f'sotune_jobs_total{{status="{status}"}} {n}' for status, n in sorted(self._jobs.items()))
        for name, help_text, value in (
            ("sotune_rows_total", "Rows weighed.", self.n_rows),
            ("sotune_rows_kept_total", "Rows that would be kept.", self.n_kept),
        ):
            yield from (f"# HELP {name} {help_text}", f"# TYPE {name} counter", f"{name} {value}")
        yield from ("# HELP sotune_rows_waiting Rows without an answer yet.", "# TYPE sotune_rows_waiting gauge")
        yield f"sotune_rows_waiting {n_waiting}"
        name = "sotune_job_seconds"
        yield from (f"# HELP {name} Seconds from request to answer.", f"# TYPE {name} histogram")
        yield from (f'{name}_bucket{{le="{bound:g}"}} {n}' for bound, n in zip(_BOUNDS, self._buckets, strict=True))
        yield from (f'{name}_bucket{{le="+Inf"}} {self.n_jobs}', f"{name}_sum {self._seconds:.6f}")
        yield f"{name}_count {self.n_jobs}"
