"""From the columns of a row to its conversation: the choice of the layout, and the reading by it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sotune.errors import DataError
from sotune.records import Message
from sotune.settings import LearnTurns
from sotune.sources.conversations import (
    Conversation,
    as_context,
    join_turns,
    learn_what_differs,
    to_conversation,
)
from sotune.sources.json_text import read_json_text
from sotune.sources.layouts import KNOWN, Layout, Row, candidates, fitting_layouts
from sotune.sources.options import DEFAULT_ID_COLUMN, NO_ID_COLUMN, SourceOptions
from sotune.sources.rows import RowFault, json_type, nearest, shown, shown_keys
from sotune.sources.text_templates import parse_open_text, parse_text
from sotune.sources.tool_calls import parse_tools
from sotune.sources.turns import holds_turns, parse_turns, tools_of_turns

_KNOWN_TEXT = "; ".join(
    f"{name}: " + ", ".join(" + ".join(layout.required) for layout in layouts)
    for name, layouts in itertools.groupby(
        sorted(KNOWN, key=lambda layout: layout.format), lambda layout: layout.format
    )
)
_REMEDY = (
    "name one with --format, or the columns with --prompt-column and --completion-column, or with "
    "--conversation-column the one that holds a conversation"
)
_HERMES_TOOLS = "<tools>"


def choose_layout(rows: Sequence[Row], options: SourceOptions, *, place: str) -> Layout:
    """Returns the layout that the user named, or the one that the first rows of a set show.

    Where several fit and all of these rows read the same by each of them, the first is taken.

    Args:
        rows: The first readable rows, at least one.
        options: What the user said.
        place: Where the first of them stands, as ``file:line``.

    Raises:
        DataError: No layout fits, or more than one does, or a column that the user named is in none of the rows.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    _check_named_columns(set(columns), place, options)
    found = fitting_layouts(rows, options)
    if len(found) == 1 or (found and all(_read_alike(row, found) for row in rows)):
        return found[0]
    keys = f"keys found: {shown_keys(columns)}"
    if found:
        fits = "; ".join(map(str, found))
        raise DataError(f"{place}: the columns fit more than one format ({fits}; {keys}); {_REMEDY}")
    if "text" in columns and options.format in ("auto", "text") and not options.names_pair_columns:
        raise DataError(
            f"{place}: the column text holds no conversation in a template that is known ({keys}); write prompt and "
            f"completion into columns of their own, or {_REMEDY}"
        )
    fault = "the columns fit no known format"
    if options.format != "auto" or options.names_pair_columns:
        possible = candidates(options)
        needs = " or ".join(" + ".join(shown(name) for name in layout.required) for layout in possible)
        fault = f"format {possible[0].format} needs {needs}"
    raise DataError(f"{place}: {fault} ({keys}); known are {_KNOWN_TEXT}: {_REMEDY}")


def read_conversation(row: Row, layout: Layout, *, learn_turns: LearnTurns = "all") -> Conversation:
    """Returns the conversation of a row.

    Args:
        row: The row.
        layout: Which of its columns hold what.
        learn_turns: Whether all assistant turns that are not marked off are learned, or only the last of them.

    Raises:
        RowFault: The row lacks a column, or one holds nothing usable.
    """
    missing = [name for name in layout.required if name not in row]
    if missing:
        raise RowFault(f"missing column: {shown(missing[0])}; the row has {shown_keys(dict(row))}")
    turns = _turns(row, layout)
    if layout.format == "preference":
        turns = learn_what_differs(turns, _other_turns(row, layout))
    turns = _with_system(turns, row, layout)
    return to_conversation(turns, _tools(row, layout, turns), learn_turns=learn_turns)


def _read_alike(row: Row, layouts: Sequence[Layout]) -> bool:
    """Tells whether a row is the same conversation by each of some layouts."""
    first, *others = (_said(row, layout) for layout in layouts)
    return all(said == first for said in others)


def _said(row: Row, layout: Layout) -> list[tuple[str, str]]:
    """Returns who says what in a row; an empty list where the layout cannot read it."""
    try:
        return [(turn.role, turn.text.strip()) for turn in read_conversation(row, layout).messages]
    except RowFault:
        return []


def _check_named_columns(columns: set[str], place: str, options: SourceOptions) -> None:
    named = {
        f"{options.flags}prompt-column": options.prompt_column,
        f"{options.flags}completion-column": options.completion_column,
        "--conversation-column": options.conversation_column,
        "--system-column": options.system_column,
        "--id-column": None if options.id_column in (DEFAULT_ID_COLUMN, NO_ID_COLUMN) else options.id_column,
    }
    for flag, name in named.items():
        if name is not None and name not in columns:
            raise DataError(
                f"{place}: neither this row nor the next ones have the column {shown(name)!r} that {flag} names; "
                f"{nearest(name, columns)}"
            )


def _turns(row: Row, layout: Layout) -> list[Message]:
    if layout.completion is None:
        return parse_turns(row[layout.prompt], shown(layout.prompt))
    prompt = _prompt_turns(row, layout)
    answer = _answer_turns(row, layout.completion, layout)
    return _with_history(join_turns(prompt, answer, layout.completion), row, layout)


def _other_turns(row: Row, layout: Layout) -> list[Message]:
    """Returns the conversation with the other answer of a pair; an empty list where it cannot be read."""
    if layout.other is None or row.get(layout.other) is None:
        return []
    other = replace(layout, completion=layout.other) if layout.completion else replace(layout, prompt=layout.other)
    try:
        return _turns(row, other)
    except RowFault:
        return []


def _prompt_turns(row: Row, layout: Layout) -> list[Message]:
    value = row[layout.prompt]
    if isinstance(value, list) or holds_turns(value):
        return as_context(parse_turns(value, shown(layout.prompt)))
    text = _text(row, layout.prompt)
    rendered = parse_open_text(text) if layout.format == "preference" else None
    if rendered is not None:
        return as_context(rendered)
    extra = row.get(layout.input) if layout.input is not None else None
    if extra is not None and not isinstance(extra, str):
        raise RowFault(f"not text: {layout.input} is {json_type(extra)}")
    return [Message("user", f"{text}\n\n{extra}" if extra and extra.strip() else text)]


def _answer_turns(row: Row, column: str, layout: Layout) -> list[Message]:
    value = _only_answer(row[column]) if column == "answers" else row[column]
    preference = layout.format == "preference"
    # An answer may well be JSON text; only a preference set is known to hold conversations in its answers.
    if isinstance(value, list) or ((preference or isinstance(value, dict)) and holds_turns(value)):
        turns = parse_turns(value, shown(column))
        if not any(turn.role == "assistant" for turn in turns):
            raise RowFault(f"no assistant turn in {shown(column)}")
        return turns
    text = _text({column: value}, column)
    rendered = parse_text(text) if preference else None
    return rendered if rendered and rendered[0].role == "user" else [Message("assistant", text)]


def _only_answer(value: Any) -> Any:
    """Returns the first of several answers to one question, as sets for reading comprehension list them."""
    texts = value.get("text") if isinstance(value, dict) else value
    return texts[0] if isinstance(texts, list) and texts and isinstance(texts[0], str) else texts


def _with_history(turns: list[Message], row: Row, layout: Layout) -> list[Message]:
    history = row.get(layout.history) if layout.history is not None else None
    if isinstance(history, str) and history.strip():
        history = read_json_text(history, "history")
    if not history or isinstance(history, str):
        return turns
    if not isinstance(history, list):
        raise RowFault(f"not a list of turns: {layout.history} is {json_type(history)}")
    entries = [_history_entry(entry, number) for number, entry in enumerate(history, start=1)]
    earlier = [turn for entry in entries for turn in entry]
    n_system = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return [*turns[:n_system], *earlier, *turns[n_system:]]


def _history_entry(entry: Any, number: int) -> list[Message]:
    if isinstance(entry, dict):
        return parse_turns([entry], "history")
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
        raise RowFault(f"not a question and an answer: entry {number} of history")
    return [Message("user", entry[0]), Message("assistant", entry[1])]


def _with_system(turns: list[Message], row: Row, layout: Layout) -> list[Message]:
    text = row.get(layout.system) if layout.system is not None else None
    if text is None:
        return turns
    if not isinstance(text, str):
        raise RowFault(f"not text: {shown(str(layout.system))} is {json_type(text)}")
    own = [turn.content.strip() for turn in turns if turn.role == "system"]
    if not text.strip() or own == [text.strip()]:
        return turns
    if own:
        raise RowFault("a system prompt both in its column and in the conversation")
    return [Message("system", text), *turns]


def _tools(row: Row, layout: Layout, turns: Sequence[Message]) -> str:
    if any(_HERMES_TOOLS in turn.content for turn in turns if turn.role == "system"):
        return ""  # rendered already, and not to be told twice
    value = row.get(layout.tools) if layout.tools is not None else None
    if value is None and layout.completion is None:
        return parse_tools(tools_of_turns(row[layout.prompt]), layout.prompt)
    return parse_tools(value, layout.tools or "")


def _text(row: Row, column: str) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise RowFault(f"not text: {shown(column)} is {json_type(text)}")
    if not text.strip():
        raise RowFault(f"empty text: {shown(column)}")
    return text
