"""What a model thinks of a text: surprise at given answers, and how far a tuned model's predictions have drifted.

Both are read off the answers that were generated anyway, by one forward pass each.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sotune.errors import ConfigError, DataError
from sotune.evaluation.batching import longest_first, pad
from sotune.evaluation.protocol import EvalPrompt, Response, pair_by_id
from sotune.models import evaluating
from sotune.records import Record
from sotune.rendering import RenderedTokens, Renderer

if TYPE_CHECKING:
    import torch

_ENDLESS = 1 << 30
_KEPT_LOGITS = 1 << 28
"""Logits that one pass may leave, over the answers of its rows: a gigabyte in float32."""
_SCORED_LOGITS = 1 << 25
"""Logits that are turned into probabilities at once."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """How unlikely a model finds an answer.

    Attributes:
        id: The prompt's id.
        nll: Mean negative log-likelihood of the answer's tokens given the prompt, in nats; None for an answer without
            a token.
        n_tokens: Tokens that the mean is taken over.
    """

    id: str
    nll: float | None
    n_tokens: int


@dataclass(frozen=True, slots=True)
class SurpriseLimit:
    """Where surprise stops being that of language, found from a model's own answers.

    Attributes:
        own: Median surprise at its own answers, in nats per token.
        scrambled: Median surprise at the same words, dealt anew over all answers at random.
        limit: Half-way between the two; None where they lie less than ``min_gap`` apart, so that the model cannot tell
            its own answers from scrambled ones.
        n: Answers that the medians are taken over.
    """

    own: float
    scrambled: float
    limit: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How far predictions moved on one prompt: the mean over positions of a divergence, in nats; None without any."""

    id: str
    kl: float | None
    n_tokens: int


def measure_surprise(
    prompts: Sequence[EvalPrompt],
    responses: Sequence[Response],
    *,
    model: Any,
    renderer: Renderer,
    batch_size: int,
) -> list[Surprise]:
    """Computes the mean negative log-likelihood of each answer under a model, −1/T · Σ_t log p(y_t | x, y_<t).

    The answer may be another model's, as long as it is text: it is tokenized anew. The end of the answer is not scored.

    Returns:
        One for each prompt, in the order of the prompts.

    Raises:
        DataError: The ids do not match, or the template refuses a prompt.
        ConfigError: ``batch_size`` is below 1.
    """
    rows = _encode(prompts, responses, renderer)

    def score(input_ids: torch.Tensor, mask: torch.Tensor, predicts: torch.Tensor) -> torch.Tensor:
        logits = _answer_logits(model, model, input_ids, mask, predicts)
        answers = input_ids[:, 1:][predicts][:, None]
        return -_in_chunks(lambda some, ids: some.float().log_softmax(-1).gather(-1, ids)[:, 0], logits, answers)

    values = _mean_over_answers(
        rows, score, model=model, pad_token_id=renderer.tokenizer.pad_token_id, batch_size=batch_size
    )
    return [Surprise(id, *values[id]) for id in values]


def measure_drift(
    prompts: Sequence[EvalPrompt],
    responses: Sequence[Response],
    *,
    tuned: Any,
    base: Callable[..., Any],
    renderer: Renderer,
    batch_size: int,
) -> list[Drift]:
    """Computes, for each prompt, 1/T · Σ_t KL(p_tuned(· | x, y_<t) ‖ p_base(· | x, y_<t)) over next tokens.

    The positions are those of a given answer y to the prompt x. With the base model's own answers all tuned models
    are measured at the same positions, so that their drifts can be compared.

    Args:
        prompts: The anchor prompts.
        responses: The answers whose positions are read.
        tuned: The tuned model, in the vocabulary of the base model.
        base: The base model in evaluation mode, or whatever predicts as it does when called with ids and mask.
        renderer: The base model's tokenizer, and how it renders a prompt.
        batch_size: Prompts per batch.

    Raises:
        ConfigError: The two models have different vocabularies, or ``batch_size`` is below 1.
        DataError: The ids do not match, or the template refuses a prompt.
    """
    rows = _encode(prompts, responses, renderer)

    def score(input_ids: torch.Tensor, mask: torch.Tensor, predicts: torch.Tensor) -> torch.Tensor:
        after, before = (_answer_logits(m, tuned, input_ids, mask, predicts) for m in (tuned, base))
        if after.shape != before.shape:
            raise ConfigError(
                f"drift compares next-token distributions over one vocabulary. Got {after.shape[-1]} and "
                f"{before.shape[-1]} tokens; measure a model that was tuned from this base"
            )
        return _in_chunks(_divergence, after, before)

    values = _mean_over_answers(
        rows, score, model=tuned, pad_token_id=renderer.tokenizer.pad_token_id, batch_size=batch_size
    )
    return [Drift(id, *values[id]) for id in values]


def _divergence(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Computes KL(after ‖ before) of each token's logits."""
    p, q = (logits.float().log_softmax(-1) for logits in (after, before))
    divergence: torch.Tensor = (p.exp() * (p - q)).sum(-1).clamp_min(0.0)
    return divergence


def _answer_logits(
    predict: Callable[..., Any], model: Any, input_ids: torch.Tensor, mask: torch.Tensor, predicts: torch.Tensor
) -> torch.Tensor:
    """Returns the logits of the places that predict an answer's token, [places, vocabulary], and computes no others.

    The states of the others are taken out before the output layer; what a model does to its logits stays its own.

    Args:
        predict: The model, or what predicts with it or in its stead.
        model: Whose output layer that is; its own, if it has one.
        input_ids: [batch, length].
        mask: [batch, length].
        predicts: Which places predict an answer's token, [batch, length − 1].
    """
    owner = predict if hasattr(predict, "get_output_embeddings") else model

    def take(_: Any, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (states[0][:, :-1][predicts][None], *states[1:])

    head = owner.get_output_embeddings()  # none where a model is built otherwise: it computes all its logits
    hook = None if head is None else head.register_forward_pre_hook(take)
    try:
        logits: torch.Tensor = predict(input_ids=input_ids, attention_mask=mask).logits
    finally:
        if hook is not None:
            hook.remove()
    # A batch of one row has fewer places than tokens, so that the two cannot be confused.
    return logits[:, :-1][predicts] if logits.shape[:2] == input_ids.shape else logits[0]


def _in_chunks(
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, beside: torch.Tensor
) -> torch.Tensor:
    """Scores logits a bounded number at a time, since their probabilities take several times their memory."""
    import torch

    size = max(1, _SCORED_LOGITS // logits.shape[-1])
    pairs = zip(torch.split(logits, size), torch.split(beside, size), strict=True)
    return torch.cat([score(*pair) for pair in pairs])


def scramble(responses: Sequence[Response], *, seed: int) -> list[Response]:
    """Deals the words of all answers anew, at random, so that each keeps its number of words and loses its sense."""
    words = [word for response in responses for word in response.text.split()]
    random.Random(seed).shuffle(words)
    left = iter(words)
    return [replace(r, text=" ".join(next(left) for _ in r.text.split())) for r in responses]


def find_limit(
    own: Sequence[Surprise], scrambled: Sequence[Surprise], *, min_tokens: int, min_gap: float
) -> SurpriseLimit:
    """Finds the surprise half-way between a model's own answers and the same words scrambled.

    No absolute perplexity is called too high: what language costs depends on tokenizer, model and subject. Half-way
    between two medians, both sides are told apart with as much room as they have.

    Args:
        own: At the answers.
        scrambled: At the scrambled answers.
        min_tokens: Answers with fewer tokens are left out: one odd word decides their mean.
        min_gap: The least distance of the medians, in nats per token, at which they count as apart.

    Raises:
        DataError: No answer is long enough.
    """
    sides = [[s.nll for s in side if s.nll is not None and s.n_tokens >= min_tokens] for side in (own, scrambled)]
    if not all(sides):
        raise DataError(f"no answer has {min_tokens} tokens; surprise needs longer answers, or more of them")
    low, high = (statistics.median(side) for side in sides)
    return SurpriseLimit(low, high, (low + high) / 2 if high - low >= min_gap else None, len(sides[0]))


def _encode(
    prompts: Sequence[EvalPrompt], responses: Sequence[Response], renderer: Renderer
) -> dict[str, RenderedTokens | None]:
    """Returns each prompt with its answer as token ids; None where the answer has no token."""
    endless = replace(renderer, max_length=_ENDLESS)
    return {
        p.id: endless.tokens(Record.from_text(p.id, p.messages, r.text)) if r.text.strip() else None
        for p, r in pair_by_id(prompts, responses)
    }


def _mean_over_answers(
    rows: Mapping[str, RenderedTokens | None],
    score: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    model: Any,
    pad_token_id: int | None,
    batch_size: int,
) -> Mapping[str, tuple[float | None, int]]:
    """Returns, by id in the order of the rows, the mean of a per-position score over the answer and its length.

    ``score`` maps ids and mask, [batch, length], and which places predict an answer's token, [batch, length − 1], to
    the scores of these places in their order.
    """
    import torch

    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1. Got {batch_size}")
    values: dict[str, tuple[float | None, int]] = dict.fromkeys(rows, (None, 0))
    told = {id: row for id, row in rows.items() if row is not None}
    most_places = max(1, _KEPT_LOGITS // model.config.get_text_config().vocab_size)
    with evaluating(model), torch.inference_mode():
        for whole in longest_first({id: len(row.input_ids) for id, row in told.items()}, batch_size):
            for batch in _of_few_places(whole, told, most_places):
                ids, mask = pad([told[id].input_ids for id in batch], pad_token_id or 0, side="right")
                predicts = torch.zeros(len(batch), ids.shape[1] - 1, dtype=torch.bool)
                for line, id in zip(predicts, batch, strict=True):
                    start, end = told[id].learned[-1]
                    line[max(start, 1) - 1 : end - 1] = True
                scores = score(*(part.to(model.device) for part in (ids, mask, predicts))).double().cpu()
                for id, answer in zip(batch, torch.split(scores, predicts.sum(1).tolist()), strict=True):
                    mean = float(answer.mean())
                    if not math.isfinite(mean):
                        raise DataError(f"the model's prediction for {id!r} is not a number; look at its weights")
                    values[id] = (mean, len(answer))
    return values


def _of_few_places(batch: Sequence[str], rows: Mapping[str, RenderedTokens], most_places: int) -> Iterator[list[str]]:
    """Splits a batch so that the answers of each part have a bounded number of tokens, or are one."""
    part, n_places = list[str](), 0
    for id in batch:
        if part and n_places + _n_answer(rows[id]) > most_places:
            yield part
            part, n_places = [], 0
        part.append(id)
        n_places += _n_answer(rows[id])
    yield part


def _n_answer(row: RenderedTokens) -> int:
    start, end = row.learned[-1]
    return end - start
