"""The one record type that flows through every stage, and the identifiers that join its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sotune.errors import DataError
from sotune.seen import SeenMap

SetName = Literal["downstream", "safe_anchor", "harmful_reference", "safe_reference", "safety_pairs"]
SET_NAMES: tuple[SetName, ...] = ("downstream", "safe_anchor", "harmful_reference", "safe_reference")
"""The sets that are encoded, the last of which may be empty; safety pairs are only trained on, by methods that ask."""
DIGEST_BYTES = 16
"""Of a conversation's digest."""
_LINE_BITS = 40  # of a row's place; the others number the file
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool by the assistant.

    Attributes:
        name: The tool.
        arguments: Its arguments, as the JSON text of an object.
        id: What the tool's result names it by; empty where the row has none.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks; ``tool`` is the result of a tool.
        content: What is said; may be empty beside a tool call.
        learned: Of an assistant turn, whether it is trained on; of any other turn it says nothing.
        reasoning: The assistant's thoughts, where the row keeps them apart from the content.
        tool_calls: The calls that the assistant makes in this turn.
        tool_call_id: Of a tool turn, the call that it answers; empty where the row has none.
        name: Of a tool turn, the tool; empty where the row has none.
    """

    role: Role
    content: str
    learned: bool = True
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """All that the turn says, the calls as a line of JSON each: for readers without a chat template."""
        calls = (f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in self.tool_calls)
        return "\n".join(part for part in (self.reasoning, self.content, *calls) if part)


@dataclass(frozen=True, slots=True)
class Record:
    """One instruction-tuning example: a conversation that ends with the last assistant turn that is learned.

    Attributes:
        id: Unique within its file; the user's own, or a content hash with an occurrence number.
        messages: All turns; the last one is the assistant's, is learned, and says something.
        tools: The tools that the assistant may call, as the JSON text of a list of schemas; empty: none.
        meta: The user's own row, JSON-equal to what was read.
        origin: Where the row came from, as ``file:line``.
    """

    id: str
    messages: tuple[Message, ...]
    tools: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    origin: str = field(default="", compare=False)

    @classmethod
    def from_text(
        cls,
        id: str,
        prompt: str | Sequence[Message],
        completion: str,
        *,
        tools: str = "",
        meta: Mapping[str, Any] | None = None,
        origin: str = "",
    ) -> Record:
        """Builds a record of a prompt, a single turn as text or several, and the answer, which alone is learned."""
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        asked = (replace(turn, learned=False) if turn.role == "assistant" else turn for turn in turns)
        return cls(id, (*asked, Message("assistant", completion)), tools, meta or {}, origin)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the completion; some may be learned as well."""
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        """The text of the last turn."""
        return self.messages[-1].text

    @property
    def learned(self) -> tuple[int, ...]:
        """The places of the turns that are trained on, the last one among them."""
        return tuple(i for i, message in enumerate(self.messages) if message.role == "assistant" and message.learned)


def texts_within(value: Any) -> Iterator[str]:
    """Yields the texts within a JSON value, however deep in its lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_within(item)


def as_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Returns the turns of a conversation as chat templates and files have them; what a turn lacks is left out."""
    return [_as_turn(message) for message in messages]


def _as_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [_as_call(call) for call in message.tool_calls]
    for key in ("tool_call_id", "name"):
        if getattr(message, key):
            turn[key] = getattr(message, key)
    return turn


def _as_call(call: ToolCall) -> dict[str, Any]:
    # Templates write the arguments as JSON themselves, so that they are given as values.
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {**({"id": call.id} if call.id else {}), "type": "function", "function": function}


def dump_messages(messages: Sequence[Message]) -> str:
    """Returns turns as JSON text, which `load_messages` reads back; what a turn lacks is left out."""
    return json.dumps([_dumped(message) for message in messages], ensure_ascii=False)


def _dumped(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    for name, blank in _BLANK.items():
        if (value := getattr(message, name)) != blank:
            turn[name] = [asdict(call) for call in value] if name == "tool_calls" else value
    return turn


_BLANK = {name: value for name, value in asdict(Message("user", "")).items() if name not in ("role", "content")}
"""What a turn has that says nothing else, by the names of its parts."""


def load_messages(text: str) -> tuple[Message, ...]:
    """Reads turns that `dump_messages` wrote."""
    turns = json.loads(text)
    calls = [tuple(ToolCall(**call) for call in turn.pop("tool_calls", ())) for turn in turns]
    return tuple(Message(**turn, tool_calls=of_turn) for turn, of_turn in zip(turns, calls, strict=True))


def content_digest(messages: Sequence[Message], tools: str = "") -> bytes:
    """Returns 16 bytes that name a conversation by its content.

    What a plain turn lacks is not hashed, so that conversations of plain turns keep the names that they have always
    had.
    """
    *prompt, completion = [_hashed(message) for message in messages]
    last: Any = completion[1] if len(completion) == 2 else completion
    parts = [prompt, last, tools] if tools else [prompt, last]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).digest()[:DIGEST_BYTES]


def content_hash(messages: Sequence[Message], tools: str = "") -> str:
    """Returns the first half of `content_digest` as 16 hexadecimal digits, which ids are made of."""
    return content_digest(messages, tools)[:8].hex()


def _hashed(message: Message) -> list[Any]:
    rest = {key: value for key, value in _as_turn(message).items() if key not in ("role", "content")}
    if message.role == "assistant" and not message.learned:
        rest["learned"] = False
    return [message.role, message.content, *([rest] if rest else [])]


class IdAssigner:
    """Gives each row of one file its id, in reading order.

    A row without an id of its own gets ``<content hash>-<occurrence>``, so that exact duplicates stay
    distinct rows with stable names.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._seen, self._occurrences = SeenMap(), SeenMap()
        self._parts: dict[str, int] = {}

    def assign(self, own: str | None, digest: str, *, origin: str) -> str:
        """Returns the id of the next row, whose content hash is given.

        Args:
            own: The id that the row itself has.
            digest: Its content hash.
            origin: Where it is from, as ``file:line``.

        Raises:
            DataError: The id occurred earlier in the same file.
        """
        if own is None:
            occurrence = self._occurrences.swap(digest.encode(), 1) + 1
            if occurrence > 1:
                self._occurrences.swap(digest.encode(), occurrence)
            own = f"{digest}-{occurrence}"
        part, _, line = origin.rpartition(":")
        number = self._parts.setdefault(part, len(self._parts))
        if before := self._seen.swap(own.encode(), number << _LINE_BITS | int(line)):
            first = f"{[*self._parts][before >> _LINE_BITS]}:{before & ((1 << _LINE_BITS) - 1)}"
            raise DataError(
                f"{self._file}: id {own!r} occurs twice, at {first} and {origin}; ids must be unique "
                f"within one set: fix the ids, name another column with --id-column, or none: --id-column none"
            )
        return own
