"""What is fuzzed: all that reads bytes of others. Each target ends in a result or a SotuneError; all else is a find.

A target takes bytes. Those of text read them as they are; those of tables, archives and run folders draw from them what
to build and how to spoil it, so that mutations get past checksums, seals and footers. A find that was mended stays as a
file in ``corpus/TARGET/`` and is read again by every test run.
"""

from __future__ import annotations

import functools
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sotune.errors import SotuneError

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[2]
ODD_NUMBERS = (0, 1, -1, 0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, -0x80000000, 100_000_000, 0x7FFFFFFFFFFFFFFF, 1 << 40)

MODULES = {
    **dict.fromkeys(
        ("jsonl", "json", "csv", "tsv", "archive", "parquet", "arrow", "prompts", "served"), "fuzz_reading"
    ),
    **dict.fromkeys(("run_yaml", "compare_yaml", "rubric"), "fuzz_settings"),
    **dict.fromkeys(("judge_reply", "chat_response", "answer", "judged_text", "views"), "fuzz_texts"),
    **dict.fromkeys(("manifest", "received_run", "continued_run"), "fuzz_runs"),
}
"""Each target, and which module has it: what one does not need is not imported."""


@dataclass(frozen=True)
class Target:
    """Something that reads bytes.

    Attributes:
        run: Reads them; raises what is no SotuneError where something is wrong.
        seeds: Where mutation begins.
        native: Whether code outside Python reads them, which no coverage guides.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    native: bool = False

    def tried(self, data: bytes) -> bool:
        """Runs it; tells whether the bytes were refused in words."""
        try:
            self.run(data)
        except SotuneError:
            return True
        return False


def find_target(name: str) -> Target:
    """Returns a target by its name."""
    target: Target = import_module(MODULES[name]).TARGETS[name]
    return target


class Draws:
    """Choices made by bytes, one after another; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def bytes(self, n: int) -> bytes:
        taken = self._data[self._at : self._at + n]
        self._at += n
        return taken

    def number(self, below: int, n_bytes: int = 1) -> int:
        return int.from_bytes(self.bytes(n_bytes), "little") % below

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.number(len(items))]


@functools.cache
def scratch() -> Path:
    """Returns a folder in memory, if there is such a thing."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=shm if os.access(shm, os.W_OK) else None))


def clean_up() -> None:
    """Removes what the targets wrote."""
    if scratch.cache_info().currsize:
        shutil.rmtree(scratch(), ignore_errors=True)
        scratch.cache_clear()


def write_file(name: str, content: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(content)
    return path


def any_text(data: bytes) -> str:
    """Returns text, lone surrogates among it where the bytes spell some."""
    try:
        return data.decode("utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace")


def spoil(content: bytes, given: Draws) -> bytes:
    """Returns bytes with up to three places changed, more often near the end, where footers are."""
    spoilt = bytearray(content)
    for _ in range(given.number(4)):
        if not spoilt:
            break
        at = given.number(len(spoilt), 3)
        if given.number(2):
            at = max(0, len(spoilt) - 1 - given.number(min(len(spoilt), 2048), 2))
        kind = given.number(7)
        if kind == 0:
            spoilt[at] ^= 1 << given.number(8)
        elif kind == 1:
            spoilt[at] = given.number(256)
        elif kind == 2:
            spoilt[at : at + 4] = struct.pack("<q", given.pick(ODD_NUMBERS))[:4]
        elif kind == 3:
            spoilt[at : at + 8] = struct.pack("<q", given.pick(ODD_NUMBERS))
        elif kind == 4:
            del spoilt[at : at + 1 + given.number(64)]
        elif kind == 5:
            spoilt[at:at] = spoilt[at : at + 1 + given.number(64)]
        else:
            spoilt[at:at] = given.bytes(1 + given.number(8))
    return bytes(spoilt)
