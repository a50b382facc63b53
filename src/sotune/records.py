"""The one record type that flows through every stage, and the identifiers that join its rows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sotune.errors import DataError

SetName = Literal["downstream", "safe_anchor", "harmful_reference", "safety_pairs"]
SET_NAMES: tuple[SetName, ...] = ("downstream", "safe_anchor", "harmful_reference")
"""The sets that are weighed; safety pairs are only trained on, by methods that want them."""
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One instruction-tuning example.

    Attributes:
        id: Unique within its file; the user's own, or a content hash with an occurrence number.
        prompt: All turns before the last assistant turn; never empty.
        completion: The last assistant turn, the text that is trained on; never empty.
        meta: The user's own row, JSON-equal to what was read.
        origin: Where the row came from, as ``file:line``.
    """

    id: str
    prompt: tuple[Message, ...]
    completion: str
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    origin: str = field(default="", compare=False)

    @classmethod
    def from_text(
        cls, id: str, prompt: str, completion: str, *, meta: Mapping[str, Any] | None = None, origin: str = ""
    ) -> Record:
        """Builds a single-turn record from plain text."""
        return cls(id, (Message("user", prompt),), completion, meta or {}, origin)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, the completion as its last assistant turn."""
        return (*self.prompt, Message("assistant", self.completion))


def as_turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Returns messages as files and chat templates have them: a role and a content each."""
    return [{"role": message.role, "content": message.content} for message in messages]


def content_hash(prompt: Sequence[Message], completion: str) -> str:
    """Returns 16 hexadecimal digits that name a prompt and completion by their content."""
    canonical = json.dumps([[[m.role, m.content] for m in prompt], completion], ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class IdAssigner:
    """Gives each row of one file its id, in reading order.

    A row without an id of its own gets ``<content hash>-<occurrence>``, so that exact duplicates stay
    distinct rows with stable names.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._seen: dict[str, str] = {}
        self._occurrences: Counter[str] = Counter()

    def assign(self, own: str | None, prompt: Sequence[Message], completion: str, *, origin: str) -> str:
        """Returns the id of the next row.

        Raises:
            DataError: The id occurred earlier in the same file.
        """
        if own is None:
            digest = content_hash(prompt, completion)
            self._occurrences[digest] += 1
            own = f"{digest}-{self._occurrences[digest]}"
        if own in self._seen:
            raise DataError(
                f"{self._file}: id {own!r} occurs twice, at {self._seen[own]} and {origin}; ids must be unique "
                f"within one file: fix the ids, or name another column with --id-column"
            )
        self._seen[own] = origin
        return own
