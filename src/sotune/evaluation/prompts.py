"""Evaluation prompts of a user's own, from a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from sotune.errors import DataError
from sotune.evaluation.protocol import KINDS, EvalPrompt, index_unique
from sotune.records import Message, Role, as_turns
from sotune.sources.jsonl import read_jsonl
from sotune.sources.options import SourceOptions
from sotune.sources.rows import Flaw, RowFault, check_row

_OWN_FIELDS = ("id", "kind", "prompt", "messages", "reference")


def load_prompts(path: Path) -> list[EvalPrompt]:
    """Reads prompts: one JSON object a line, gzip-compressed or not.

    Each has ``kind`` (harmful, lookalike, task or skill), ``prompt`` (text) or ``messages`` (turns with role and
    content), ``reference`` where the kind is task or skill, and ``id``, without which it is named by its line.
    Other columns are kept as ``meta``. Unlike training rows, a faulty prompt is never skipped: a figure over fewer
    prompts than the user thinks would be wrong.

    Raises:
        DataError: The file is missing or empty, a line is faulty, or an id occurs twice.
    """
    if not path.is_file():
        raise DataError(f"the evaluation prompts {path} do not exist; check the path")
    prompts = [_prompt(row, where, f"prompt-{number:06d}") for number, row, where in read_lines(path)]
    if not prompts:
        raise DataError(f"{path} holds no prompts; add one JSON object a line")
    index_unique("prompts", prompts)
    return prompts


def prompt_row(prompt: EvalPrompt) -> dict[str, Any]:
    """Returns a prompt as a line of such a file has it, without its meta."""
    return {
        "id": prompt.id,
        "kind": prompt.kind,
        "messages": as_turns(prompt.messages),
        "reference": prompt.reference,
    }


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yields the rows of a JSONL file, gzip-compressed or not, with their line number and place.

    Raises:
        DataError: The file cannot be read, or a line is no JSON object.
    """
    max_bytes = SourceOptions().max_row_bytes
    for number, value in read_jsonl(path, max_row_bytes=max_bytes):
        where = f"{path.name}:{number}"
        if not isinstance(value, dict | Flaw):
            raise DataError(f"{where}: not a JSON object. Got a {type(value).__name__}; fix the line")
        try:
            yield number, check_row(value, max_bytes=max_bytes).row, where
        except RowFault as fault:
            raise DataError(f"{where}: not a JSON object ({fault}); fix the line") from None


def _prompt(row: dict[str, Any], where: str, fallback_id: str) -> EvalPrompt:
    if row.get("kind") not in KINDS:
        raise DataError(f"{where}: kind must be one of {', '.join(KINDS)}. Got {row.get('kind')!r}")
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise DataError(f"{where}: reference must be text. Got a value of type {type(reference).__name__}")
    return EvalPrompt(
        id=str(row.get("id") or fallback_id),
        kind=row["kind"],
        messages=read_messages(row, where),
        reference=reference,
        meta={name: value for name, value in row.items() if name not in _OWN_FIELDS},
    )


def read_messages(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """Returns the turns of a row: its ``prompt`` as one, or its ``messages``.

    Raises:
        DataError: It has neither, both, or a faulty turn.
    """
    prompt, turns = row.get("prompt"), row.get("messages")
    if isinstance(prompt, str) and prompt.strip() and turns is None:
        return (Message("user", prompt),)
    if isinstance(turns, list) and turns and prompt is None and all(_is_turn(turn) for turn in turns):
        return tuple(Message(turn["role"], turn["content"]) for turn in turns)
    raise DataError(f"{where}: give either prompt (text) or messages (a list of turns with role and content)")


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") in get_args(Role) and isinstance(turn.get("content"), str)
