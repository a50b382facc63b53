"""Which columns hold what: the layouts known, and the choice among them by the first rows of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sotune.settings import Format
from sotune.sources.options import CONVERSATION_FORMATS, SourceOptions
from sotune.sources.rows import RowFault
from sotune.sources.text_templates import parse_text
from sotune.sources.tool_calls import parse_tools
from sotune.sources.turns import holds_turns

Row = Mapping[str, Any]
_Fits = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a row hold what.

    Attributes:
        format: The schema's name.
        prompt: Column of the prompt, or of the whole conversation.
        completion: Column of the completion; None where ``prompt`` holds the whole conversation.
        input: Column of what the prompt is about, which a row may lack; None: there is none. So are those that follow.
        system: Column of the system prompt.
        history: Column of earlier questions and answers.
        tools: Column of the schemas of the tools.
        other: Column of the other answer of a pair, which tells what both share.
    """

    format: Format
    prompt: str
    completion: str | None = None
    input: str | None = None
    system: str | None = None
    history: str | None = None
    tools: str | None = None
    other: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return (self.prompt,) if self.completion is None else (self.prompt, self.completion)

    @property
    def used(self) -> frozenset[str]:
        """The columns that are read."""
        optional = (self.input, self.system, self.history, self.tools, self.other)
        return frozenset((*self.required, *(column for column in optional if column is not None)))

    def __str__(self) -> str:
        return f"{self.format}: {' + '.join(self.required)}"


_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "answers"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("problem", "solution"),
    ("inputs", "targets"),
)
_PROMPTS = ("prompt", "question", "query", "instruction", "input", "conversations")
"""Columns in which a preference set may have its prompt."""
_ANSWERS = ("completion", "response", "output", "answer", "answers", "solution", "targets", "chosen")
_OTHERS = {"chosen": "rejected", "rejected": "chosen"}
_INPUTS = {"instruction": ("input", "context"), "question": ("context",)}
"""Columns of what the prompt is about, by the prompt's: Alpaca's, Dolly's, and those of questions on a text."""
_SYSTEMS = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_SURE = ("messages", "conversations")
"""Columns that hold a conversation whatever they look like; columns of other names must look it."""
_ALIKE: tuple[Format, ...] = ("messages", "sharegpt")
_CONVERSATIONS = (*_SURE, "conversation", "dialog", "dialogue", "chat", "turns")

KNOWN: tuple[Layout, ...] = (
    *(Layout("prompt-completion", *pair) for pair in _PAIRS),
    *(Layout("alpaca", "instruction", answer) for answer in ("output", "response")),
    *(Layout("sharegpt" if name == "conversations" else "messages", name) for name in _CONVERSATIONS),
    *(Layout("preference", prompt, "chosen") for prompt in _PROMPTS),
    Layout("preference", "chosen"),
    Layout("text", "text"),
)


def fitting_layouts(rows: Sequence[Row], options: SourceOptions) -> list[Layout]:
    """Returns the layouts that the first rows of a set fit; of one and a wider one, only the wider.

    A column that is null in all rows does not count where it would make two layouts fit.
    """
    found = [layout for layout in candidates(options) if _fits(layout, rows, options)]
    found = found or [layout for layout in _named_conversations(options) if _fits(layout, rows, options)]
    if len(found) > 1:
        filled = {key for row in rows for key, value in row.items() if value is not None}
        found = [layout for layout in found if filled.issuperset(layout.required)] or found
    # Any text may stand in a column of this name: it is read only where nothing else can be.
    found = [layout for layout in found if layout.prompt != "text"] or found
    if options.format in _ALIKE:  # each reads the columns of the other as well, but its own first
        found = [layout for layout in found if layout in KNOWN] or found
    found = [_with_optional_columns(layout, rows, options) for layout in found]
    return [layout for layout in found if not any(layout.used < other.used for other in found)]


def candidates(options: SourceOptions) -> list[Layout]:
    """Returns the layouts that the user's words leave possible."""
    if options.conversation_column is not None:
        return [Layout(_conversation_format(options), options.conversation_column)]
    if options.names_pair_columns:
        return _named_pairs(options)
    if options.format == "auto":
        return list(KNOWN)
    alike = _ALIKE if options.format in _ALIKE else (options.format,)
    return [replace(layout, format=options.format) for layout in KNOWN if layout.format in alike]


def _named_pairs(options: SourceOptions) -> list[Layout]:
    prompts = [options.prompt_column] if options.prompt_column else _PROMPTS
    answers = [options.completion_column] if options.completion_column else _ANSWERS
    return [
        Layout("preference" if answer in _OTHERS else "prompt-completion", prompt, answer)
        for prompt in prompts
        for answer in answers
        if prompt != answer
    ]


def _named_conversations(options: SourceOptions) -> list[Layout]:
    """Returns the layout of a single column that the user named, which then holds the whole conversation."""
    named = [name for name in (options.prompt_column, options.completion_column) if name is not None]
    if len(named) != 1 or options.conversation_column is not None:
        return []
    return [Layout("preference" if named[0] in _OTHERS else _conversation_format(options), named[0])]


def _conversation_format(options: SourceOptions) -> Format:
    return options.format if options.format in CONVERSATION_FORMATS else "messages"


def _fits(layout: Layout, rows: Sequence[Row], options: SourceOptions) -> bool:
    required = set(layout.required)
    full = [row for row in rows if row.keys() >= required]
    if layout.completion is not None or layout.prompt in (*_SURE, options.conversation_column):
        return bool(full)
    return any(_is_conversation(row[layout.prompt]) for row in full)


def _is_conversation(value: Any) -> bool:
    try:
        return holds_turns(value, pairs=True) or (isinstance(value, str) and parse_text(value) is not None)
    except RowFault:
        return False


def _with_optional_columns(layout: Layout, rows: Sequence[Row], options: SourceOptions) -> Layout:
    taken = set(layout.required)
    columns = {key for row in rows for key in row} - taken
    return replace(
        layout,
        input=next((name for name in _INPUTS.get(layout.prompt, ()) if name in columns), None),
        system=options.system_column or _first_of(_SYSTEMS, columns, rows, _is_text),
        history=None if layout.completion is None else _first_of(("history",), columns, rows, _is_history),
        tools=_first_of(_TOOLS, columns, rows, _is_tools),
        other=next((_OTHERS[name] for name in taken if _OTHERS.get(name) in columns), None),
    )


def _first_of(names: Iterable[str], columns: set[str], rows: Sequence[Row], fits: _Fits) -> str | None:
    """Returns the first column that is there and holds in some row what it should."""
    return next((name for name in names if name in columns and any(fits(row.get(name)) for row in rows)), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_history(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    return isinstance(value, list) and all(isinstance(item, list | dict) for item in value)


def _is_tools(value: Any) -> bool:
    try:
        return bool(parse_tools(value, ""))
    except RowFault:
        return False
