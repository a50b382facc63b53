"""A line for each job: who asked, what was weighed by which run, and how it ended; ids and digests, no text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_json
from sotune.errors import ConfigError, SotuneError
from sotune.pipeline import ScoredRow
from sotune.serving.job_queue import Job


class AuditLog:
    """A file that only grows.

    Args:
        path: The file; made when it does not exist, readable by its owner alone.
        run: Digests of what weighs the rows, by file.

    Raises:
        ConfigError: It cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, str]) -> None:
        self.path, self._run = path, sha256_json(dict(run))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(descriptor, "a", encoding="utf-8")
            self._write({"event": "start", "run": dict(run), "run_digest": self._run})
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}); name another file with audit") from None

    def note(self, job: Job, answer: Sequence[ScoredRow] | SotuneError) -> None:
        """Adds the line of a job.

        Raises:
            OSError: It could not be written.
        """
        entry: dict[str, Any] = {
            "event": "job",
            "job": job.id,
            "client": job.client,
            "run_digest": self._run,
            "n_rows": len(job.rows),
            "row_digests": [sha256_json(row) for row in job.rows],
        }
        if isinstance(answer, SotuneError):
            entry["error"] = type(answer).__name__  # its message may cite a row
        else:
            entry |= {"ids": [row.id for row in answer], "would_keep": [row.would_keep for row in answer]}
        self._write(entry)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
        self._file.write(json.dumps(line, ensure_ascii=True) + "\n")
        self._file.flush()
