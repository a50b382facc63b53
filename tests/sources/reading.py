"""What the tests of the sources share: files written in a line, and sets read with few words."""

import gzip
import json

from sotune.sources import SourceOptions, load_set

GOOD = {"prompt": "What is 2 + 2?", "completion": "4"}


def good(i: int, **more) -> dict:
    return {"prompt": f"question {i}", "completion": f"answer {i}", **more}


def write_jsonl(path, *rows):
    """Writes rows as JSON Lines; a text or bytes is written as it is."""
    raw = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else _line(row) for row in rows]
    data = b"".join(line + b"\n" for line in raw)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load(source, *, max_quarantine_fraction=0.0, progress=None, **options):
    return load_set(
        source,
        set_name="downstream",
        options=SourceOptions(**options),
        max_quarantine_fraction=max_quarantine_fraction,
        progress=progress,
    )


def load_with_bad(source, **options):
    """Loads a set however many of its rows are bad."""
    return load(source, max_quarantine_fraction=1.0, **options)


def reasons(loaded) -> dict[int, str]:
    return {row.line: row.reason for row in loaded.quarantined}


def _line(row) -> bytes:
    return json.dumps(row).encode()
