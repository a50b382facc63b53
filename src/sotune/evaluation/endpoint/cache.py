"""Answers on disk, one JSON line each, so that a killed evaluation pays for no answer twice."""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sotune.artifacts import write_text
from sotune.errors import ArtifactError
from sotune.evaluation.endpoint.client import Answer

_ANSWERS, _SECRET = "answers.jsonl", "secret"
_SECRET_BYTES = 32


class AnswerCache:
    """A folder with an append-only file of answers, keyed by the content of the question.

    Each answer is one write of one line, so that threads and processes may share the folder, and a kill can at most
    tear the last line, which is then asked again. The folder also holds the secret from which fences are made: with
    another secret the same text makes another question.

    Args:
        folder: Made when it does not exist.

    Raises:
        ArtifactError: The folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.secret = _load_secret(folder / _SECRET)
            self._answers = _load_answers(folder / _ANSWERS)
        except OSError as error:
            raise ArtifactError(
                f"the judge's cache {folder} cannot be used ({error.strerror}); name another folder with "
                f"judge_cache_dir"
            ) from None

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """Returns the answer to a question, if it is known."""
        return self._answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keeps an answer."""
        line = json.dumps({"key": key, **asdict(answer)}).encode("ascii") + b"\n"
        with self._lock:
            self._answers[key] = answer
            _append(self.folder / _ANSWERS, line)


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" + line if torn else line)
    finally:
        os.close(descriptor)


def _load_answers(path: Path) -> dict[str, Answer]:
    if not path.exists():
        return {}
    answers = {}
    with path.open("rb") as file:
        for line in file:
            entry = _entry(line)
            if entry is not None:
                key = entry.pop("key")
                answers[key] = Answer(**entry)
    return answers


def _entry(line: bytes) -> dict[str, Any] | None:
    """Returns what a line holds; None for one that a kill or a full disk tore."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    types = {
        "key": str,
        "text": str,
        "finish_reason": str,
        "input_tokens": int | None,
        "output_tokens": int | None,
    }
    if not isinstance(entry, dict) or entry.keys() != types.keys():
        return None
    return entry if all(isinstance(entry[name], kind) for name, kind in types.items()) else None


def _load_secret(path: Path) -> bytes:
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        secret = b""
    if len(secret) != _SECRET_BYTES:
        secret = secrets.token_bytes(_SECRET_BYTES)
        write_text(path, secret.hex())
        path.chmod(0o600)
    return secret
