"""JSON that stands as text inside a row, held to the same rules as the row itself."""

from __future__ import annotations

import json
import sys
from typing import Any

from sotune.sources import strict_json
from sotune.sources.rows import RowFault, check_row


def read_json_text(text: str, what: str) -> Any:
    """Returns the value of JSON text inside a row.

    Args:
        text: The JSON.
        what: What it is, for the reason.

    Raises:
        RowFault: It is not JSON, or holds a value that no row may hold.
    """
    try:
        value = strict_json.decode(text)
    except (json.JSONDecodeError, RecursionError):
        raise RowFault(f"not JSON: {what}") from None
    for reason in check_row({what: value}, max_bytes=sys.maxsize).gaps.values():
        raise RowFault(reason)
    return value


def write_json_text(value: Any) -> str:
    """Returns the JSON text of a value as records keep it: keys in their order, letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def without_nulls(value: Any) -> Any:
    """Returns a value without the keys that are null: tables fill the keys that a row lacks with null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
