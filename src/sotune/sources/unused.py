"""Columns that hold text which is neither weighed nor trained on: a user who did not mean that must hear of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sotune.records import texts_within

_FEWEST_WORDS = 4
"""Fewer in most rows, and a column is taken for a label, a source, a name or a date."""

_ASKED = ("prompt", "question", "query", "instruction", "instructions", "input", "image", "images")
_KNOWN = {*_ASKED, "system", "system_prompt", "history", "context", "reasoning", "thinking", "tools"}
"""Columns that change what a model is asked or answers, however short their text."""


def unused_text(rows: Sequence[Mapping[str, Any]], used: Collection[str | None]) -> list[str]:
    """Returns the columns that hold text and are not used, in their order.

    A column holds text if half of its values that are not empty have four words or more, counted over the whole of a
    list or object; one of a known name, such as ``system`` or ``history``, if it has any text.

    >>> unused_text([{"prompt": "Hi", "note": "Said in a low voice.", "label": "safe"}], {"prompt"})
    ['note']
    """
    columns = dict.fromkeys(name for row in rows for name in row if name not in used)
    return [name for name in columns if _holds_text([row.get(name) for row in rows], known=name.lower() in _KNOWN)]


def _holds_text(values: Sequence[Any], *, known: bool) -> bool:
    counts = [count for count in map(_words, values) if count]
    n_long = sum(count >= _FEWEST_WORDS for count in counts)
    return bool(counts) and (known or 2 * n_long >= len(counts))


def _words(value: Any) -> int:
    return sum(len(text.split()) for text in texts_within(value))
