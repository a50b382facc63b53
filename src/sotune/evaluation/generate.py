"""Greedy answers of any causal LM, in batches, the same for a prompt in any company."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sotune.errors import ConfigError, DataError
from sotune.evaluation.protocol import EvalPrompt, Response, index_unique
from sotune.rendering import Template, render_prompt

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]  # prompts done, prompts in all


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt as token ids."""

    id: str
    input_ids: list[int]


def generate(
    prompts: Sequence[EvalPrompt],
    *,
    model: Any,
    tokenizer: Any,
    template: Template,
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
        tokenizer: The model's tokenizer.
        template: How to render a prompt.
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts per batch.
        progress: Called after each batch with how many prompts are done, and how many there are.

    Returns:
        One response for each prompt, in the order of the prompts.

    Raises:
        ConfigError: A size is under 1, or the template is not the tokenizer's to use.
        DataError: There are no prompts, an id occurs twice, or a prompt is too long for the model.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens and batch_size must be at least 1. Got {max_new_tokens} and {batch_size}")
    if not prompts:
        raise DataError("there is nothing to answer: 0 prompts were given; give at least one")
    index_unique("prompts", prompts)
    encoded = _encode(prompts, tokenizer, template)
    _require_room(encoded, model, max_new_tokens)
    # The longest first: a batch that does not fit in memory fails at once, not after an hour.
    encoded.sort(key=lambda prompt: (-len(prompt.input_ids), prompt.id))
    config = _greedy_config(model, tokenizer, max_new_tokens)
    responses: dict[str, Response] = {}
    with _evaluating(model):
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            responses |= {r.id: r for r in _answer(batch, model, tokenizer, config)}
            if progress is not None:
                progress(len(responses), len(encoded))
    return [responses[prompt.id] for prompt in prompts]


def _encode(prompts: Sequence[EvalPrompt], tokenizer: Any, template: Template) -> list[_Prompt]:
    special = template == "paper"  # a chat template writes its own special tokens
    encoded = []
    for prompt in prompts:
        text = render_prompt(prompt.messages, template, tokenizer)
        ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        encoded.append(_Prompt(prompt.id, _without_final_eos(ids, tokenizer)))
    return encoded


def _without_final_eos(ids: list[int], tokenizer: Any) -> list[int]:
    """Drops the end token that some tokenizers add to every text: after it there is nothing left to say."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _require_room(prompts: Sequence[_Prompt], model: Any, max_new_tokens: int) -> None:
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(prompts, key=lambda prompt: len(prompt.input_ids))
    needed = len(longest.input_ids) + max_new_tokens
    if room is not None and needed > room:
        raise DataError(
            f"prompt {longest.id!r} has {len(longest.input_ids)} tokens, with {max_new_tokens} new ones {needed}, and "
            f"the model reads {room}; lower max_new_tokens or leave the prompt out"
        )


def _greedy_config(model: Any, tokenizer: Any, max_new_tokens: int) -> Any:
    from transformers import GenerationConfig

    stops = _stop_ids(model, tokenizer)
    if not stops:
        raise ConfigError("neither tokenizer nor model names an end-of-sequence token; set tokenizer.eos_token")
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=stops[0] if pad is None else pad,
        eos_token_id=stops,
    )


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    own = getattr(model, "generation_config", None)
    named = getattr(own, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return sorted({id for id in (*ids, tokenizer.eos_token_id) if id is not None})


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Puts a model in evaluation mode without gradients, its own generation settings set aside.

    Transformers fills every setting that is left open from the model's own, a repetition penalty for example.
    """
    import torch
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT looks its settings up there
    was_training, own = model.training, inner.generation_config
    model.eval()
    inner.generation_config = GenerationConfig()
    try:
        with torch.inference_mode():
            yield
    finally:
        inner.generation_config = own
        if was_training:
            model.train()


def _answer(batch: Sequence[_Prompt], model: Any, tokenizer: Any, config: Any) -> list[Response]:
    input_ids, attention_mask = _pad_left(batch, config.pad_token_id)
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=config,
    )
    generated = output[:, input_ids.shape[1] :].tolist()
    return [
        _response(prompt.id, ids, tokenizer, stops=config.eos_token_id)
        for prompt, ids in zip(batch, generated, strict=True)
    ]


def _pad_left(batch: Sequence[_Prompt], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and mask, each [batch, longest]."""
    import torch

    longest = max(len(prompt.input_ids) for prompt in batch)
    gaps = [longest - len(prompt.input_ids) for prompt in batch]
    ids = [[pad_token_id] * gap + prompt.input_ids for gap, prompt in zip(gaps, batch, strict=True)]
    mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
    return torch.tensor(ids), torch.tensor(mask)


def _response(id: str, ids: list[int], tokenizer: Any, *, stops: Sequence[int]) -> Response:
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return Response(id, text.strip(), n_tokens=len(ids[:end]), finished=end is not None)
