"""Harmful prompts with refusals, for methods that train on such or measure with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sotune import processes
from sotune.errors import DataError
from sotune.evaluation import EvalPrompt, generate
from sotune.methods.inputs import Tools, TrainInputs
from sotune.models import load_causal_lm, load_config, n_positions
from sotune.records import Record

_MOST_TOKENS = 64  # of an answer of the model's own: a refusal says so at once
_ASKED_AT_ONCE = 64


def safety_pairs(tools: Tools, harmful_reference: Sequence[Record], *, most: int) -> list[Record]:
    """Returns at most so many pairs of harmful prompt and refusal, under ids of their own.

    Where none were given, the harmful reference's prompts are taken, with the answers that the model itself gives
    before any fine-tuning: it is aligned, and so they are refusals that fit its language and its manner.

    Args:
        tools: The model, and pairs where there are any.
        harmful_reference: Harmful rows; only their prompts are used.
        most: How many at most, at least 1.

    Raises:
        DataError: The model answers none of the prompts.
    """
    pairs = list(tools.safety_pairs[:most]) or own_answers(tools, harmful_reference[:most])
    return [replace(record, id=f"safety-pair-{index:05d}") for index, record in enumerate(pairs)]


def append_rows(inputs: TrainInputs, rows: Sequence[Record]) -> TrainInputs:
    """Returns the inputs with more rows to train on, each with loss weight 1."""
    weights = {**inputs.loss_weights, **dict.fromkeys((row.id for row in rows), 1.0)}
    return replace(inputs, records=[*inputs.records, *rows], loss_weights=weights)


def fits_question(tools: Tools, answer_tokens: int) -> Callable[[Record], bool]:
    """Returns what tells whether a row's prompt, with an answer of so many tokens, can be asked at all."""
    renderer = tools.renderer
    positions = n_positions(load_config(tools.model).get_text_config()) or renderer.max_length + answer_tokens
    room = min(renderer.max_length, positions - answer_tokens)

    def fits(row: Record) -> bool:
        try:
            return len(renderer.prompt_tokens(row.prompt, row.tools)) < room  # one token of the answer fits too
        except DataError:  # the template refuses it
            return False

    return fits


def base_model_of(tools: Tools) -> Any:
    """Returns the model before fine-tuning, held as it is while it is trained, in 4 bits or whole."""
    return load_causal_lm(tools.model, frozen=True, quantization=tools.training.quantization)


def own_answers(
    tools: Tools, rows: Sequence[Record], *, most_tokens: int = _MOST_TOKENS, model: Any = None
) -> list[Record]:
    """Returns the rows' prompts with the base model's own greedy answers, of at most so many tokens.

    Args:
        tools: The base model, and how prompts are rendered.
        rows: What is asked.
        most_tokens: Of an answer.
        model: The base model, where it is loaded already.

    Raises:
        DataError: All answers are empty.
    """
    base = base_model_of(tools) if model is None else model
    answered = answers_of(base, tools, rows, most_tokens=most_tokens)
    if not answered:
        raise DataError(
            "the base model answers none of the prompts, so nothing can be held; train with hold: none, or give "
            "safety_pairs to a method that takes them"
        )
    return answered


def answers_of(model: Any, tools: Tools, rows: Sequence[Record], *, most_tokens: int) -> list[Record]:
    """Returns the rows' prompts with a model's greedy answers; those that it answers with nothing are left out."""
    prompts = [EvalPrompt(record.id, "harmful", record.prompt, tools=record.tools) for record in rows]
    answers = processes.on_main(
        lambda: generate(
            prompts,
            model=model,
            renderer=tools.renderer,
            max_new_tokens=min(most_tokens, tools.training.max_length // 2),
            batch_size=_ASKED_AT_ONCE,
            progress=tools.on_asked,
        )
    )
    text = {answer.id: answer.text for answer in answers if answer.text}
    return [Record.from_text(row.id, row.prompt, text[row.id], tools=row.tools) for row in rows if row.id in text]
