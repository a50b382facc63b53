"""JSON files: an array of rows, an object that holds one such array, or JSON Lines under another name."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sotune.errors import DataError
from sotune.sources import streams
from sotune.sources.json_text import decode
from sotune.sources.jsonl import read_jsonl
from sotune.sources.rows import Flaw, RawRow, count_values, shown_keys

MAX_FILE_BYTES = 1 << 29
"""512 MiB. A JSON array must be held in memory whole; larger data belongs in JSON Lines or Parquet."""

MAX_FILE_VALUES = 20_000_000
"""Of a JSON file that is held in memory whole: some 2 GB."""

_REMEDY = "fix it, or write the rows as JSON Lines, where one broken row costs only itself"


def read_json(
    path: Path, *, max_row_bytes: int, bounds: streams.Bounds = streams.DEFAULT_BOUNDS
) -> Generator[RawRow, None, None]:
    """Yields the rows of a JSON file with their row numbers (line numbers if it turns out to be JSON Lines).

    Raises:
        DataError: The file is too large, not JSON, or holds no list of rows, or more than one.
    """
    text = _read_text(path, bounds)
    try:
        value = decode(text)
    except json.JSONDecodeError as error:
        if _starts_with_an_object_line(text):
            yield from read_jsonl(path, max_row_bytes=max_row_bytes, bounds=bounds)
            return
        raise DataError(
            f"{path}:{error.lineno}: broken JSON ({error.msg} at column {error.colno}); {_REMEDY}"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: JSON nested too deeply to be read; {_REMEDY}") from None
    for number, row in enumerate(_rows(value, path), start=1):
        yield RawRow(number, row)


def _read_text(path: Path, bounds: streams.Bounds) -> str:
    with streams.open_bytes(path, bounds) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"{path} holds over {MAX_FILE_BYTES} bytes, too many for one JSON value; write the rows as JSON Lines "
            f"or Parquet, which are read piece by piece"
        )
    if count_values(data) > MAX_FILE_VALUES:
        raise DataError(f"{path} holds over {MAX_FILE_VALUES} values, too many for one JSON value; {_REMEDY}")
    # Bytes that are not UTF-8 become lone surrogates, for which the row that holds them is quarantined.
    return streams.without_mark(data, path).decode("utf-8", errors="surrogateescape")


def _starts_with_an_object_line(text: str) -> bool:
    line = text.lstrip().split("\n", 1)[0]
    try:
        return isinstance(decode(line), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _rows(value: Any, path: Path) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, Flaw):
        raise DataError(f"{path}: {value.reason}; {_REMEDY}")
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a single value where rows are needed; write an array of objects")
    lists = [key for key, item in value.items() if isinstance(item, list)]
    if len(lists) == 1:
        rows: list[Any] = value[lists[0]]
        return rows
    found = f"{len(lists)} lists" if lists else "no list"
    raise DataError(
        f"{path} holds an object with {found} (keys found: {shown_keys(value)}), so it is unclear where its "
        f"rows are; write an array of rows, or an object with one list (pandas: to_json(orient='records'))"
    )
