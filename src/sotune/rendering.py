"""From a record to the text and the tokens that a model reads: the one home of templates.

Extraction and training call the same functions, so a row is weighed as the text that it is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sotune.errors import ConfigError, DataError
from sotune.records import Message, Record, as_turns

Template = Literal["paper", "chat"]
TEMPLATES: tuple[Template, ...] = ("paper", "chat")

_PAPER_SPEAKER = {"system": "System", "user": "Human", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class RenderedText:
    """One record as text.

    Attributes:
        prompt: Everything the model is given, up to and including the cue for its answer.
        full: The prompt, the completion, and what the template puts after it. Starts with ``prompt`` for
            nearly every template; where it does not, the token mask falls back on the common prefix.
    """

    prompt: str
    full: str


@dataclass(frozen=True, slots=True)
class RenderedTokens:
    """One record as token ids.

    Attributes:
        input_ids: Prompt and completion, at most ``max_length`` ids.
        n_prompt: How many of them, from the left, belong to the prompt and carry no loss.
        truncated: Whether the row was too long and lost tokens.
    """

    input_ids: tuple[int, ...]
    n_prompt: int
    truncated: bool


def render(record: Record, template: Template, tokenizer: Any = None) -> RenderedText:
    """Renders a record as text.

    ``paper`` is the context of the paper (§4.1), ``Human: {prompt}; Assistant: {completion}``; further turns
    follow in the same form. ``chat`` is the tokenizer's own chat template.

    Raises:
        ConfigError: The chat template was asked of a tokenizer that has none.
        DataError: The chat template refuses the conversation.
    """
    if template == "paper":
        prompt = render_prompt(record.prompt, template)
        return RenderedText(prompt=prompt, full=f"{prompt} {record.completion}")
    prompt = render_prompt(record.prompt, template, tokenizer)
    return RenderedText(prompt=prompt, full=_apply_chat_template(record.messages, tokenizer))


def render_prompt(prompt: Sequence[Message], template: Template, tokenizer: Any = None) -> str:
    """Renders the turns before the answer, with the cue that asks the model for one.

    Raises:
        ConfigError: The chat template was asked of a tokenizer that has none.
        DataError: The chat template refuses the conversation.
    """
    if template == "paper":
        return "; ".join([f"{_PAPER_SPEAKER[m.role]}: {m.content}" for m in prompt] + ["Assistant:"])
    if template != "chat":
        raise ConfigError(f"template must be one of {', '.join(TEMPLATES)}. Got {template!r}")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError(
            "template 'chat' needs a tokenizer with a chat template, and this one has none; use template 'paper'"
        )
    return _apply_chat_template(prompt, tokenizer, add_generation_prompt=True)


def tokenize(
    record: Record, tokenizer: Any, *, template: Template, max_length: int, append_eos: bool = False
) -> RenderedTokens:
    """Renders a record and turns it into at most ``max_length`` token ids.

    The prompt's share is the common prefix of the prompt's own ids and those of the whole text, which holds
    for chat templates without generation markers too. An over-long row keeps the *end* of its prompt and the
    *start* of its completion, as much of each as fits, neither less than half of the room when it has that
    much; a beginning-of-sequence token stays.

    Args:
        record: The row.
        tokenizer: A Hugging Face tokenizer.
        template: How to render the row.
        max_length: The most token ids that a row may have, at least 2.
        append_eos: Whether to end the completion with the end-of-sequence token (for training), unless the
            template already wrote it.

    Raises:
        ConfigError: ``max_length`` is below 2, or the chat template was asked of a tokenizer that has none.
        DataError: The completion has no token of its own, or the chat template refuses the conversation.
    """
    if max_length < 2:
        raise ConfigError(f"max_length must be at least 2, one token each for prompt and completion. Got {max_length}")
    text = render(record, template, tokenizer)
    special = template == "paper"  # a chat template writes its own special tokens
    prompt_ids = tokenizer(text.prompt, add_special_tokens=special, verbose=False)["input_ids"]
    full_ids = list(tokenizer(text.full, add_special_tokens=special, verbose=False)["input_ids"])
    n_prompt = _common_prefix_length(prompt_ids, full_ids)
    if n_prompt == len(full_ids):
        raise DataError(f"record {record.id!r} has a completion that adds no token; drop the row")
    eos = getattr(tokenizer, "eos_token_id", None)
    if append_eos and eos is not None and eos not in full_ids[-2:]:
        full_ids.append(eos)
    if len(full_ids) <= max_length:
        return RenderedTokens(tuple(full_ids), n_prompt, truncated=False)
    return _truncate(full_ids, n_prompt, max_length, bos=getattr(tokenizer, "bos_token_id", None))


def _truncate(ids: list[int], n_prompt: int, max_length: int, *, bos: int | None) -> RenderedTokens:
    n_completion = len(ids) - n_prompt
    keep_completion = min(n_completion, max(max_length // 2, max_length - n_prompt))
    keep_prompt = min(n_prompt, max_length - keep_completion)
    prompt = ids[n_prompt - keep_prompt : n_prompt]
    if prompt and ids[0] == bos:
        prompt[0] = ids[0]
    completion = ids[n_prompt : n_prompt + keep_completion]
    return RenderedTokens(tuple(prompt + completion), len(prompt), truncated=True)


def _common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def _apply_chat_template(messages: Sequence[Message], tokenizer: Any, **options: bool) -> str:
    from jinja2 import TemplateError

    turns = as_turns(messages)
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except TemplateError as error:  # many templates refuse a system turn, or two user turns in a row
        roles = ", ".join(m.role for m in messages)
        raise DataError(
            f"the tokenizer's chat template refuses a conversation of {roles} ({error}); "
            f"use template 'paper', or drop such rows"
        ) from error
