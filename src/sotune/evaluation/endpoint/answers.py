"""Answers on disk, so that a killed evaluation pays for no answer twice."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from dataclasses import astuple
from pathlib import Path

from sotune.errors import ArtifactError
from sotune.evaluation.endpoint.client import Answer

_FILE = "answers.sqlite"
_SECRET_BYTES = 32
_PATIENCE = 60.0  # seconds to wait for another process that writes
_SCHEMA = """
PRAGMA journal_mode = WAL;  -- a log beside the file: a hundred times as fast, and as safe from a kill
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, finish_reason TEXT NOT NULL, input_tokens INTEGER, output_tokens INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 0), secret BLOB NOT NULL);
"""


class AnswerCache:
    """A folder with one SQLite file of answers, keyed by the content of the question.

    Threads and processes of one machine may share it, and each answer is a transaction of its own, which a kill leaves
    whole or undone. The file also holds the secret from which fences are made: with another secret the same text makes
    another question.

    Args:
        folder: Made when it does not exist.
        setting: Which setting names it, for messages.

    Raises:
        ArtifactError: The folder or its file cannot be used.
    """

    def __init__(self, folder: Path, *, setting: str = "judge_cache_dir") -> None:
        self.folder = folder
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _FILE).touch(mode=0o600)
            self._database = sqlite3.connect(
                folder / _FILE, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._database.executescript(_SCHEMA)
            self._database.execute("INSERT OR IGNORE INTO secret VALUES (0, ?)", (secrets.token_bytes(_SECRET_BYTES),))
            self.secret: bytes = self._database.execute("SELECT secret FROM secret").fetchone()[0]
        except (OSError, sqlite3.Error) as error:
            raise ArtifactError(
                f"the cache of answers {folder} cannot be used ({error}); name another folder with {setting}"
            ) from None

    def __len__(self) -> int:
        with self._lock:
            return int(self._database.execute("SELECT count(*) FROM answers").fetchone()[0])

    def get(self, key: str) -> Answer | None:
        """Returns the answer to a question, if it is known."""
        columns = "text, finish_reason, input_tokens, output_tokens"
        with self._lock:
            row = self._database.execute(f"SELECT {columns} FROM answers WHERE key = ?", (key,)).fetchone()
        return Answer(*row) if row else None

    def put(self, key: str, answer: Answer) -> None:
        """Keeps an answer."""
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (key, *astuple(answer)))
