"""From the columns of a row to its prompt and completion: the schemas known, their detection, their mapping."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotune.errors import DataError
from sotune.records import Message
from sotune.settings import Format
from sotune.sources.conversations import Conversation, parse_turns, to_conversation
from sotune.sources.options import DEFAULT_ID_COLUMN, NO_ID_COLUMN, SourceOptions
from sotune.sources.rows import RowFault, json_type, shown, shown_keys

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a row hold what.

    Attributes:
        format: The schema's name.
        prompt: Column of the prompt, or of the whole conversation.
        completion: Column of the completion; None where ``prompt`` holds the whole conversation.
        input: Column of Alpaca's input, which a row may lack; None in other schemas.
        system: Column of the system prompt, which a row may lack; None: there is none.
    """

    format: Format
    prompt: str
    completion: str | None = None
    input: str | None = None
    system: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return (self.prompt,) if self.completion is None else (self.prompt, self.completion)


_KNOWN = (
    Layout("prompt-completion", "prompt", "completion"),
    Layout("prompt-completion", "prompt", "response"),
    Layout("alpaca", "instruction", "output", input="input"),
    Layout("sharegpt", "conversations"),
    Layout("messages", "messages"),
)
_KNOWN_TEXT = "; ".join(f"{layout.format}: {' + '.join(layout.required)}" for layout in _KNOWN)
_REMEDY = "name one with --format, or the columns with --prompt-column and --completion-column"


def choose_layout(rows: Sequence[Row], options: SourceOptions, *, place: str) -> Layout:
    """Returns the layout that the user named, or the one that the first rows of a set show.

    A column that is null in all of them does not count where it would make two layouts fit.

    Args:
        rows: The first readable rows, at least one.
        options: What the user said.
        place: Where the first of them stands, as ``file:line``.

    Raises:
        DataError: No layout fits, or more than one does, or a column that the user named is in none of the rows.
    """
    columns = {key for row in rows for key in row}
    _check_named_columns(columns, place, options)
    layouts = _possible_layouts(options)
    found = [layout for layout in layouts if any(row.keys() >= set(layout.required) for row in rows)]
    if len(found) > 1:
        filled = {key for row in rows for key, value in row.items() if value is not None}
        found = [layout for layout in found if filled.issuperset(layout.required)] or found
    if len(found) == 1:
        return replace(found[0], system=options.system_column)
    keys = f"keys found: {shown_keys(dict.fromkeys(key for row in rows for key in row))}"
    if found:
        fits = "; ".join(f"{layout.format}: {' + '.join(layout.required)}" for layout in found)
        raise DataError(f"{place}: the columns fit more than one format ({fits}; {keys}); {_REMEDY}")
    if options.format != "auto" or options.names_pair_columns:
        needs = " or ".join(" + ".join(shown(name) for name in layout.required) for layout in layouts)
        raise DataError(
            f"{place}: format {layouts[0].format} needs {needs} ({keys}); known are {_KNOWN_TEXT}: {_REMEDY}"
        )
    raise DataError(f"{place}: the columns fit no known format ({keys}); known are {_KNOWN_TEXT}: {_REMEDY}")


def read_conversation(row: Row, layout: Layout) -> Conversation:
    """Returns the conversation of a row.

    Raises:
        RowFault: The row lacks a column, or one holds no usable text.
    """
    missing = [name for name in layout.required if name not in row]
    if missing:
        raise RowFault(f"missing column: {shown(missing[0])}; the row has {shown_keys(dict(row))}")
    turns = _system_turns(row, layout)
    if layout.completion is None:
        conversation = parse_turns(row[layout.prompt], shown(layout.prompt))
    else:
        conversation = [*_prompt_turns(row, layout), *_completion_turns(row, layout.completion)]
    if turns and any(turn.role == "system" for turn in conversation):
        raise RowFault("a system prompt both in its column and in the conversation")
    return to_conversation([*turns, *conversation])


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the known name nearest to a wrong one, or at all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {shown(close[0])!r}?" if close else f"known are {shown_keys(dict.fromkeys(names))}"


def _check_named_columns(columns: set[str], place: str, options: SourceOptions) -> None:
    named = {
        "--prompt-column": options.prompt_column,
        "--completion-column": options.completion_column,
        "--system-column": options.system_column,
        "--id-column": None if options.id_column in (DEFAULT_ID_COLUMN, NO_ID_COLUMN) else options.id_column,
    }
    for flag, name in named.items():
        if name is not None and name not in columns:
            raise DataError(
                f"{place}: neither this row nor the next ones have the column {shown(name)!r} that {flag} names; "
                f"{nearest(name, columns)}"
            )


def _possible_layouts(options: SourceOptions) -> list[Layout]:
    if not options.names_pair_columns:
        return [layout for layout in _KNOWN if options.format in ("auto", layout.format)]
    prompt = options.prompt_column or "prompt"
    completions = [options.completion_column] if options.completion_column else ["completion", "response"]
    return [Layout("prompt-completion", prompt, completion) for completion in completions]


def _system_turns(row: Row, layout: Layout) -> list[Message]:
    text = row.get(layout.system) if layout.system is not None else None
    if text is None:
        return []
    if not isinstance(text, str):
        raise RowFault(f"not text: {shown(str(layout.system))} is {json_type(text)}")
    return [Message("system", text)] if text.strip() else []


def _prompt_turns(row: Row, layout: Layout) -> list[Message]:
    if isinstance(row[layout.prompt], list):
        return parse_turns(row[layout.prompt], shown(layout.prompt))
    text = _text(row, layout.prompt)
    extra = row.get(layout.input) if layout.input is not None else None
    if extra is not None and not isinstance(extra, str):
        raise RowFault(f"not text: {layout.input} is {json_type(extra)}")
    return [Message("user", f"{text}\n\n{extra}" if extra and extra.strip() else text)]


def _completion_turns(row: Row, column: str) -> list[Message]:
    if not isinstance(row[column], list):
        return [Message("assistant", _text(row, column))]
    turns = parse_turns(row[column], shown(column))
    if not any(turn.role == "assistant" for turn in turns):
        raise RowFault(f"no assistant turn in {shown(column)}")
    return turns


def _text(row: Row, column: str) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise RowFault(f"not text: {shown(column)} is {json_type(text)}")
    if not text.strip():
        raise RowFault(f"empty text: {shown(column)}")
    return text
