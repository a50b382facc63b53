"""JSON Lines: one object a line. Blank lines are skipped."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sotune.sources import streams
from sotune.sources.json_text import decode
from sotune.sources.rows import MAX_DEPTH, MAX_VALUES, Flaw, RawRow, count_values, too_large


def read_jsonl(
    path: Path, *, max_row_bytes: int, bounds: streams.Bounds = streams.DEFAULT_BOUNDS
) -> Generator[RawRow, None, None]:
    """Yields the rows of a JSON Lines file with their line numbers, a flaw for each line that is not JSON.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    with streams.open_bytes(path, bounds) as file:
        for number, line in streams.lines(file, path, max_bytes=max_row_bytes):
            if line is None:
                yield RawRow(number, Flaw(str(too_large(max_row_bytes))))
            elif line.strip():
                yield RawRow(number, _parse(line))


def _parse(line: bytes) -> Any:
    if count_values(line) > MAX_VALUES:
        return Flaw(f"over {MAX_VALUES} values in one row")
    try:
        return decode(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        return Flaw(f"not UTF-8: byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return Flaw(f"broken JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return Flaw(f"nested deeper than {MAX_DEPTH} levels")
