"""Greedy answers of any causal LM, in batches, the same for a prompt in any company."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sotune.errors import ConfigError, DataError
from sotune.evaluation.batching import Progress, longest_first, pad
from sotune.evaluation.protocol import EvalPrompt, Response, index_unique
from sotune.evaluation.thoughts import is_mark, opening_mark
from sotune.models import evaluating, n_positions
from sotune.rendering import Renderer

if TYPE_CHECKING:
    import torch

_LEAST_ROWS = 4
"""Fewer rows are answered to the end together: starting anew would cost more than it saves."""
_LONGEST_MARK = 32  # tokens, which the opening mark of thoughts may take in a rendered prompt


def generate(
    prompts: Sequence[EvalPrompt],
    *,
    model: Any,
    renderer: Renderer,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Response]:
    """Answers every prompt by greedy decoding.

    Prompts of like length share a batch, padded on the left; the batches are a fixed function of all prompts and of
    ``batch_size``. Whatever the model's own generation settings ask for (sampling, penalties, forced tokens), only
    their end-of-sequence tokens are used, so that two models are compared under the same decoding. In float32 an
    answer does not depend on its batch, apart from exact ties; in half precision near ties may fall either way.

    Args:
        prompts: What to ask.
        model: A causal LM or a PEFT model around one. It is put in evaluation mode meanwhile.
        renderer: The model's tokenizer, and how it renders a prompt.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts per batch.
        progress: Called after each batch with how many prompts are done, and how many there are.

    Returns:
        One response for each prompt, in the order of the prompts.

    Raises:
        ConfigError: A size is under 1.
        DataError: There are no prompts, an id occurs twice, or a prompt is too long for the model.
    """
    import torch

    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens and batch_size must be at least 1. Got {max_new_tokens} and {batch_size}")
    if not prompts:
        raise DataError("there is nothing to answer: 0 prompts were given; give at least one")
    index_unique("prompts", prompts)
    encoded = {prompt.id: _encode(prompt, renderer) for prompt in prompts}
    _require_room(encoded, model, max_new_tokens)
    config = _greedy_config(model, renderer, max_new_tokens)
    decode = functools.partial(_decode, tokenizer=renderer.tokenizer, marks=_special_marks(renderer.tokenizer))
    responses: dict[str, Response] = {}
    with evaluating(model), torch.inference_mode(), _own_settings_aside(model):
        for batch in longest_first({id: len(ids) for id, ids in encoded.items()}, batch_size, progress):
            generated = _answer([encoded[id] for id in batch], model, config)
            for id, ids in zip(batch, generated, strict=True):
                responses[id] = _response(id, encoded[id], ids, decode, config)
    return [responses[prompt.id] for prompt in prompts]


def _encode(prompt: EvalPrompt, renderer: Renderer) -> list[int]:
    try:
        return renderer.prompt_tokens(prompt.messages, prompt.tools)
    except DataError as error:
        raise DataError(f"prompt {prompt.id!r} cannot be asked: {error}") from error


def _require_room(encoded: Mapping[str, Sequence[int]], model: Any, max_new_tokens: int) -> None:
    room = n_positions(model.config.get_text_config())
    longest = max(encoded, key=lambda id: len(encoded[id]))
    needed = len(encoded[longest]) + max_new_tokens
    if room is not None and needed > room:
        raise DataError(
            f"prompt {longest!r} has {len(encoded[longest])} tokens, with {max_new_tokens} new ones {needed}, and "
            f"the model reads {room}; lower max_new_tokens or leave the prompt out"
        )


def _greedy_config(model: Any, renderer: Renderer, max_new_tokens: int) -> Any:
    from transformers import GenerationConfig

    stops = _stop_ids(model, renderer)
    if not stops:
        raise ConfigError("neither tokenizer nor model names an end-of-sequence token; set tokenizer.eos_token")
    pad = renderer.tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=stops[0] if pad is None else pad,
        eos_token_id=stops,
    )


def _stop_ids(model: Any, renderer: Renderer) -> list[int]:
    own = getattr(model, "generation_config", None)
    named = getattr(own, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return sorted({id for id in (*ids, renderer.tokenizer.eos_token_id, renderer.end_of_turn_id) if id is not None})


@contextlib.contextmanager
def _own_settings_aside(model: Any) -> Iterator[None]:
    """Sets a model's own generation settings aside.

    Transformers fills every setting that is left open from them, a repetition penalty for example.
    """
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT looks its settings up there
    own, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own


def _answer(batch: Sequence[Sequence[int]], model: Any, config: Any) -> list[list[int]]:
    """Returns the token ids that follow each prompt.

    Whenever half of the rows have ended, the others go on without them, with what the model has cached of them.
    """
    import torch

    ids, mask = (part.to(model.device) for part in pad(batch, config.pad_token_id, side="left"))
    start, rows, cache, compacts = ids.shape[1], list(range(len(batch))), None, True
    answers: dict[int, list[int]] = {}
    while rows:
        some = copy.deepcopy(config)
        some.update(max_new_tokens=start + config.max_new_tokens - ids.shape[1], return_dict_in_generate=True)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=some,
            stopping_criteria=[_half_ended(start, config)] if compacts and len(rows) >= _LEAST_ROWS else [],
        )
        ids, cache = output.sequences, output.past_key_values
        answers |= dict(zip(rows, ids[:, start:].tolist(), strict=True))
        goes_on = ~_ended(ids[:, start:], config)
        if ids.shape[1] == start + config.max_new_tokens or not goes_on.any():
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)
        compacts = _selects_rows(cache)
        if compacts:
            kept = goes_on.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            ids, mask, rows = ids[kept], mask[kept], [rows[place] for place in kept.tolist()]
    return [answers[row] for row in range(len(batch))]


def _ended(answers: torch.Tensor, config: Any) -> torch.Tensor:
    """Tells which rows hold a token that ends them, bool [rows]."""
    import torch

    return torch.isin(answers, torch.tensor(config.eos_token_id, device=answers.device)).any(dim=1)


def _half_ended(start: int, config: Any) -> Callable[..., torch.Tensor]:
    """Returns a criterion that stops all rows once half of them have ended."""

    def stop(ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        ended = _ended(ids[:, start:], config)
        return (2 * ended.sum() >= len(ended)).expand(len(ended))

    return stop


def _selects_rows(cache: Any) -> bool:
    """Tells whether rows can be taken out of a model's cache; recurrent states have no way to do so."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)


def _response(
    id: str, prompt: Sequence[int], ids: list[int], decode: Callable[[Sequence[int]], str], config: Any
) -> Response:
    """Returns the answer; the mark that opens its thoughts is a part of it even where the prompt holds that mark."""
    end = next((place for place, token in enumerate(ids) if token in config.eos_token_id), None)
    text = opening_mark(decode(prompt[-_LONGEST_MARK:])) + decode(ids[:end])
    return Response(id, text.strip(), n_tokens=len(ids[:end]), finished=end is not None)


def _special_marks(tokenizer: Any) -> dict[int, str]:
    """Returns the special tokens that mark thoughts, by id."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {id: token.content for id, token in added.items() if token.special and is_mark(token.content)}


def _decode(ids: Sequence[int], *, tokenizer: Any, marks: Mapping[int, str]) -> str:
    """Returns ids as text, of the special tokens only those that mark thoughts."""
    runs = ((mark, list(run)) for mark, run in itertools.groupby(ids, key=marks.get))
    return "".join(mark or tokenizer.decode(run, skip_special_tokens=True) for mark, run in runs)
