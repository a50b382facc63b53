"""A tokenizer with the template that it is used with: conversations become text, and token ids with what is learned."""

from __future__ import annotations

import functools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile
from typing import Any, Literal

from sotune.errors import ConfigError, DataError, first_line
from sotune.models import ModelSpec, load_config, load_tokenizer, n_positions
from sotune.records import Message, Record, as_turns
from sotune.rendering.omissions import omits_a_turn, parts_kept
from sotune.rendering.paper import render_paper
from sotune.rendering.special_tokens import THOUGHT_TAGS, Span, SpecialTokens, split_literal
from sotune.rendering.turn_finder import TurnFinder
from sotune.settings import RenderingSettings

_PROBE = Record.from_text("probe", "Hello", "Hello")
_ENDLESS = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """What a template did to a record.

    Attributes:
        lossy: Whether it left out a part of a turn that is learned, thoughts for example.
        omits: Whether it left out what a system, user or tool turn says, or the tools.
        cued: Whether what stands before the last turn is what generation begins with.
    """

    lossy: bool = False
    omits: bool = False
    cued: bool = True


@dataclass(frozen=True, slots=True)
class RenderedText(_Rendered):
    """One record as text.

    Attributes:
        full: The whole text.
        learned: Where it is trained on: for each turn that is learned its start and end, the template's end-of-turn
            token included, in characters of the text, in their order.
        literal: Where special tokens stand that the row's own text wrote; they are read as text.
    """

    full: str
    learned: tuple[Span, ...]
    literal: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class RenderedTokens(_Rendered):
    """One record as token ids.

    Attributes:
        input_ids: At most ``max_length`` ids.
        learned: Ranges of ids that are trained on, one for each learned turn of which a part is left, in their order.
        n_lost: How many more ids the row had, where it was too long.
        n_literal: How many special tokens the row's own text wrote; they are read as text.
    """

    input_ids: tuple[int, ...]
    learned: tuple[Span, ...]
    n_lost: int = 0
    n_literal: int = 0

    @property
    def truncated(self) -> bool:
        """Whether the row was too long and lost ids."""
        return self.n_lost > 0

    @property
    def n_prompt(self) -> int:
        """How many ids stand before the last learned turn."""
        return self.learned[-1][0]

    @property
    def n_learned(self) -> int:
        """How many ids are trained on."""
        return sum(end - start for start, end in self.learned)


@dataclass(frozen=True)
class Renderer:
    """Renders conversations with a tokenizer.

    Attributes:
        tokenizer: A Hugging Face tokenizer; with the paper's template, None does for text alone.
        template: ``paper`` is the context of the paper (§4.1), ``chat`` the tokenizer's own chat template.
        max_length: The most token ids that a row may have, at least 2.
        chat_template: Which of the tokenizer's chat templates, by name, where it has several.
        options: What the chat template is given beside the turns, such as ``enable_thinking``.
        fold_system: Whether a system turn is put in front of the user turn after it, for templates without one.
        n_embeddings: How many ids the model has embeddings for; None: not known.

    Raises:
        ConfigError: ``max_length`` is below 2, or the tokenizer lacks the chat template that was asked for.
    """

    tokenizer: Any
    template: Literal["paper", "chat"]
    max_length: int = 2048
    chat_template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fold_system: bool = False
    n_embeddings: int | None = None

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError(
                f"max_length must be at least 2, one token each for prompt and completion. Got {self.max_length}"
            )
        if self.template not in ("paper", "chat"):
            raise ConfigError(f"template must be one of paper, chat. Got {self.template!r}")
        if self.template == "chat":
            _check_chat_template(self.tokenizer, self.chat_template)

    @property
    def description(self) -> Mapping[str, Any]:
        """All that rendering depends on besides the tokenizer."""
        return {
            "template": self.template,
            "max_length": self.max_length,
            **({"chat_template": self.chat_template} if self.chat_template else {}),
            **({"chat_template_kwargs": dict(self.options)} if self.options else {}),
            **({"fold_system": True} if self.fold_system else {}),
        }

    @functools.cached_property
    def special_tokens(self) -> SpecialTokens:
        """The texts that the tokenizer takes for control tokens."""
        return SpecialTokens(self.tokenizer)

    def text(self, record: Record) -> RenderedText:
        """Renders a record as text.

        Raises:
            DataError: The chat template refuses the conversation, leaves out a learned turn, or rewrites the
                conversation so that a learned turn cannot be found again.
        """
        covered = [self._covered(message) for message in self._folded(record.messages)]
        tools = self.special_tokens.cover(record.tools)
        learned = [i for i, message in enumerate(covered) if message.role == "assistant" and message.learned]
        if self.template == "paper":
            full, spans, cued = render_paper(covered, tools=tools), _paper_spans(covered, tools, learned), True
        else:
            chat = TurnFinder(
                as_turns(covered), functools.partial(self._apply, tools=tools), self.special_tokens.pattern
            )
            full, spans, cued = chat.full, [chat.span(place) for place in learned], chat.cued
        uncovered = self.special_tokens.uncover(full, spans)
        kept = list[bool]()
        for place, (start, end) in zip(record.learned, uncovered.spans, strict=True):
            parts = parts_kept(record.messages[place], uncovered.text[start:end])
            if parts and not any(parts):
                raise DataError(
                    f"the chat template leaves out all that turn {place + 1} says, which is to be learned; "
                    f"drop such rows, or take a template that writes tool calls and thoughts"
                )
            kept += parts
        return RenderedText(
            uncovered.text,
            uncovered.spans,
            uncovered.literal,
            lossy=not all(kept),
            omits=omits_a_turn(record.messages, uncovered.text) or self._ignores_tools(covered, tools, full),
            cued=cued,
        )

    def _ignores_tools(self, covered: Sequence[Message], tools: str, full: str) -> bool:
        if not tools or self.template == "paper":
            return False
        try:
            return self._apply(as_turns(covered), "") == full
        except DataError:  # it insists on them
            return False

    def tokens(self, record: Record, *, append_eos: bool = False, text: RenderedText | None = None) -> RenderedTokens:
        """Renders a record and turns it into at most ``max_length`` token ids.

        An over-long row keeps the *end* of what stands before its last turn and the *start* of that turn, as much of
        each as fits, neither less than half of the room when it has that much; a beginning-of-sequence token stays.

        Args:
            record: The row.
            append_eos: Whether to end the row with the end-of-sequence token (for training), unless the template wrote
                an end of its own.
            text: What `text` returned for the record, if it is at hand.

        Raises:
            DataError: The last turn has no token of its own, a token is none that the model has, or the chat template
                refuses the conversation.
        """
        text = self.text(record) if text is None else text
        ids, learned = self._encode(text)
        start, end = learned[-1]
        if start == end:
            raise DataError(f"record {record.id!r} has a completion that adds no token; drop the row")
        eos = getattr(self.tokenizer, "eos_token_id", None)
        if append_eos and eos is not None and ids[end - 1] not in self.special_tokens.ids:
            ids.append(eos)
            learned[-1] = (start, len(ids))
        self._check_ids(ids, record.id)
        n_lost = max(0, len(ids) - self.max_length)
        if n_lost:
            bos = getattr(self.tokenizer, "bos_token_id", None)
            ids, learned = _truncate(ids, learned, self.max_length, bos=bos)
        done = {"lossy": text.lossy, "omits": text.omits, "cued": text.cued}
        return RenderedTokens(tuple(ids), tuple(learned), n_lost, len(text.literal), **done)

    def prompt_text(self, messages: Sequence[Message], tools: str = "") -> str:
        """Renders turns with the cue that asks the model for an answer.

        Raises:
            DataError: The chat template refuses the conversation.
        """
        return self.special_tokens.uncover(self._covered_prompt(messages, tools)).text

    def prompt_tokens(self, messages: Sequence[Message], tools: str = "") -> list[int]:
        """Renders turns with the cue for an answer, as token ids without a limit.

        Raises:
            DataError: The chat template refuses the conversation, or a token is none that the model has.
        """
        text, _, literal = self.special_tokens.uncover(self._covered_prompt(messages, tools))
        ids, _ = self._tokenize(text, literal)
        self._check_ids(ids, "of a prompt")
        # Some tokenizers end every text; a chat template that ends so means it.
        ends = self.template == "paper" and len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id
        return ids[:-1] if ends else ids

    @functools.cached_property
    def end_of_turn_id(self) -> int | None:
        """The special token that ends an answer in this template; None where there is none."""
        try:
            tokens = self.tokens(_PROBE, append_eos=True)
        except DataError:
            return None
        last = tokens.input_ids[tokens.learned[-1][1] - 1]
        return last if last in self.special_tokens.ids else None

    def check_vocabulary(self, name: str) -> None:
        """Raises a ConfigError where a plain conversation has ids that the model of that name has not."""
        try:
            # With all that training would write, whatever a row may be long.
            ids = replace(self, n_embeddings=None, max_length=_ENDLESS).tokens(_PROBE, append_eos=True).input_ids
        except DataError:  # a template may want a system turn; the rows tell
            return
        if self.n_embeddings is not None and max(ids) >= self.n_embeddings:
            unknown = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise ConfigError(
                f"the tokenizer of {name} knows {len(self.tokenizer)} tokens, the model {self.n_embeddings}, and the "
                f"{self.template} template uses one of those that the model lacks, {unknown!r}; resize the model's "
                f"embeddings, or take the tokenizer that belongs to the model"
            )

    def _covered(self, message: Message) -> Message:
        cover = self.special_tokens.cover
        calls = (replace(call, name=cover(call.name), arguments=cover(call.arguments)) for call in message.tool_calls)
        kept = THOUGHT_TAGS if message.role == "assistant" else ()  # the template is to see them
        said = {
            "content": cover(message.content, kept),
            "reasoning": cover(message.reasoning),
            "name": cover(message.name),
        }
        return replace(message, tool_calls=tuple(calls), **said)

    def _folded(self, messages: Sequence[Message]) -> list[Message]:
        """Puts system turns in front of the user turn that follows at once, where that is asked for."""
        turns = list[Message]()
        for message in messages:
            if self.fold_system and message.role == "user":
                while turns and turns[-1].role == "system":
                    message = Message("user", f"{turns.pop().content}\n\n{message.content}")
            turns.append(message)
        return turns

    def _covered_prompt(self, messages: Sequence[Message], tools: str) -> str:
        covered, tools = [self._covered(m) for m in self._folded(messages)], self.special_tokens.cover(tools)
        if self.template == "paper":
            return render_paper(covered, tools=tools, cue=True)
        return self._apply(as_turns(covered), tools, cue=True)

    def _apply(self, turns: Sequence[Mapping[str, Any]], tools: str, *, cue: bool = False) -> str:
        """Applies the chat template to turns as it is; see `as_turns`.

        Raises:
            DataError: It refuses them.
        """
        from jinja2 import TemplateError

        options = {**self.options, **({"tools": json.loads(tools)} if tools else {})}
        try:
            text = self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=cue, chat_template=self.chat_template, **options
            )
        # A template is a program of its own: many refuse a system turn, or two user turns in a row, and some break.
        except (
            TemplateError,
            TypeError,
            LookupError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise DataError(
                f"the tokenizer's chat template refuses a conversation of {roles} ({first_line(error)}); "
                f"use template 'paper', fold_system for a system turn, or drop such rows"
            ) from error
        return str(text)

    def _encode(self, text: RenderedText) -> tuple[list[int], list[Span]]:
        """Returns the ids of a text and the ranges of them that are learned."""
        ids, offsets = self._tokenize(text.full, text.literal)
        if offsets is None:
            places = {edge: self._n_common(ids, text, edge) for span in text.learned for edge in span}
            learned = [(places[start], places[end]) for start, end in text.learned]
        else:
            # What starts in the span, or reaches into it from the left, is learned, except for a control token of the
            # cue that swallows the blanks after it.
            starts, ends = _running(offsets, 0), _running(offsets, 1)
            firsts = [bisect_right(ends, start) for start, _ in text.learned]
            swallows = [
                first < len(ids) and ids[first] in self.special_tokens.ids and starts[first] < start
                for first, (start, _) in zip(firsts, text.learned, strict=True)
            ]
            lasts = [bisect_left(starts, end) for _, end in text.learned]
            learned = [(first + more, last) for first, more, last in zip(firsts, swallows, lasts, strict=True)]
        learned = [(start, max(start, end)) for start, end in learned]
        if text.learned[-1][1] == len(text.full):  # with an end that the tokenizer itself adds
            learned[-1] = (learned[-1][0], len(ids))
        return ids, learned

    def _tokenize(self, text: str, literal: Sequence[Span]) -> tuple[list[int], list[Span] | None]:
        """Returns ids and their places in the text; no places where the tokenizer does not tell them."""
        # A chat template writes its own special tokens.
        special, fast = self.template == "paper", bool(getattr(self.tokenizer, "is_fast", False))
        options: dict[str, Any] = {"verbose": False, "return_offsets_mapping": fast}
        try:
            if not literal:
                found = self.tokenizer(text, add_special_tokens=special, **options)
                return list(found["input_ids"]), list(found["offset_mapping"]) if fast else None
            ids = list(self.tokenizer("", add_special_tokens=special)["input_ids"])
            ids = [id for id in ids if id != self.tokenizer.eos_token_id]
            offsets = [(0, 0)] * len(ids)
            for start, piece, is_literal in split_literal(text, literal):
                found = self.tokenizer(piece, add_special_tokens=False, split_special_tokens=is_literal, **options)
                ids += found["input_ids"]
                offsets += [(start + a, start + b) for a, b in found["offset_mapping"]] if fast else []
        except (UnicodeError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the tokenizer does not take the text ({first_line(error)}); drop the row") from error
        return ids, offsets if fast else None

    def _n_common(self, ids: Sequence[int], text: RenderedText, end: int) -> int:
        """Returns how many ids the text up to a place has in common with the whole."""
        literal = [(a, b) for a, b in text.literal if b <= end]
        head, _ = self._tokenize(text.full[:end], literal)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(head, ids, strict=False)))

    def _check_ids(self, ids: Sequence[int], whose: str) -> None:
        if self.n_embeddings is not None and ids and max(ids) >= self.n_embeddings:
            raise DataError(
                f"record {whose!r} has the token {self.tokenizer.convert_ids_to_tokens(max(ids))!r}, which the "
                f"tokenizer knows and the model does not; drop the row, or resize the model's embeddings"
            )


def load_renderer(spec: ModelSpec, settings: RenderingSettings) -> Renderer:
    """Loads a model's tokenizer with the template that the settings name, and what of the model limits it.

    Raises:
        ConfigError: The tokenizer cannot be loaded, lacks the template, or writes tokens that the model lacks.
    """
    renderer = make_renderer(load_tokenizer(spec), load_config(spec), settings, max_length=settings.max_length)
    renderer.check_vocabulary(spec.name)
    return renderer


def make_renderer(tokenizer: Any, config: Any, settings: RenderingSettings, *, max_length: int | None) -> Renderer:
    """Returns the renderer of a tokenizer with the template that the settings name.

    Args:
        tokenizer: Of the model.
        config: The model's configuration, which says what it reads and knows.
        settings: How rows are rendered.
        max_length: Most tokens of a row; ``None``: what the model reads, or the settings say where that is unknown.

    Raises:
        ConfigError: The tokenizer lacks the template.
    """
    config = config.get_text_config()
    limits = [limit for limit in (max_length, n_positions(config)) if limit]
    return Renderer(
        tokenizer,
        resolve_template(tokenizer, settings.template),
        min(limits, default=settings.max_length),
        settings.chat_template,
        settings.chat_template_kwargs,
        settings.fold_system,
        getattr(config, "vocab_size", None),
    )


def resolve_template(tokenizer: Any, template: Literal["auto", "paper", "chat"]) -> Literal["paper", "chat"]:
    """Returns the template that ``auto`` stands for: the tokenizer's chat template if it has one, else the paper's."""
    if template != "auto":
        return template
    return "chat" if getattr(tokenizer, "chat_template", None) else "paper"


def _check_chat_template(tokenizer: Any, name: str | None) -> None:
    templates = getattr(tokenizer, "chat_template", None)
    if not templates:
        raise ConfigError(
            "template 'chat' needs a tokenizer with a chat template, and this one has none; use template 'paper'"
        )
    names = sorted(templates) if isinstance(templates, Mapping) else []
    if names and name is None:
        known = ", ".join(names)
        raise ConfigError(f"the tokenizer has several chat templates; name one of {known} with chat_template")
    if name is not None and name not in names:
        known = f"known are {', '.join(names)}" if names else "it has one alone; leave chat_template out"
        raise ConfigError(f"the tokenizer has no chat template called {name!r}; {known}")


def _paper_spans(messages: Sequence[Message], tools: str, learned: Sequence[int]) -> list[Span]:
    """Returns where learned turns stand, from the end of their cue."""
    return [
        (
            len(render_paper(messages[:place], tools=tools, cue=True)),
            len(render_paper(messages[: place + 1], tools=tools)),
        )
        for place in learned
    ]


def _running(offsets: Sequence[Span], side: int) -> list[int]:
    """Returns one side of the offsets, never falling: special tokens that a tokenizer adds have no place."""
    return list(accumulate((offset[side] for offset in offsets), max))


def _truncate(
    ids: list[int], learned: Sequence[Span], max_length: int, *, bos: int | None
) -> tuple[list[int], list[Span]]:
    n_prompt = learned[-1][0]
    n_rest = len(ids) - n_prompt
    keep_rest = min(n_rest, max(max_length // 2, max_length - n_prompt))
    keep_prompt = min(n_prompt, max_length - keep_rest)
    first = n_prompt - keep_prompt
    kept = ids[first : n_prompt + keep_rest]
    n_fixed = 0
    if keep_prompt and ids[0] == bos:
        kept[0], n_fixed = ids[0], 1
    moved = [(max(start - first, n_fixed), min(end - first, len(kept))) for start, end in learned]
    return kept, [(start, end) for start, end in moved if start < end]
