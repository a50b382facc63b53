"""Builds the miniature's model: pre-trained on the language, harm included, then aligned to refuse it.

    python experiments/miniature/build.py --out FOLDER

Pre-training teaches the language as a raw corpus would: the skills, harmful plans and harmless ones alike. Alignment
then teaches refusals to harmful requests and help with their look-alikes. It also shows the model finished exchanges
and has it say a refusal after those that did harm, which makes it notice harm in what it has read and not only in what
it is asked; without that, the last token's state of a row would hardly tell whether the answer was harmful.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import Progress
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sotune.artifacts import write_json
from sotune.errors import DataError
from sotune.miniature.language import ANSWERS, HARM_KINDS, PLAN, QUESTIONS, REFUSALS, SLOTS, HarmKind
from sotune.miniature.topics import SKILL_DRAWS, Draw, Exchange, draw_slots, harmful, lookalike, refused, stream

_POOL_ROWS = 4000
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MAX_LENGTH = 64
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '; ' if message['role'] != 'user' else ' ' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ 'Human: ' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '; Assistant:' }}{% endif %}"
)
SPEAKERS = ("Human", ":", ";", "Assistant")


@dataclass(frozen=True)
class BuildSettings:
    """Everything that the built model depends on, besides the number of threads.

    Attributes:
        hidden_size: Width.
        num_hidden_layers: Depth.
        intermediate_size: Width of the feed-forward layers.
        pretraining_steps: Optimizer steps on the language.
        alignment_steps: Optimizer steps on refusals and look-alikes.
        batch_size: Rows of a step.
        pretraining_rate: Peak learning rate of pre-training.
        alignment_rate: Peak learning rate of alignment.
        prompt_loss: Weight of prompt tokens in pre-training.
        recognition: Share of alignment rows that show a finished harmful exchange and refuse afterwards.
        recognized_kinds: The kinds of harm among them; the others are a blind spot in what the model notices.
        seed: Of the weights and the rows.
    """

    hidden_size: int = 96
    num_hidden_layers: int = 3
    intermediate_size: int = 192
    pretraining_steps: int = 1500
    alignment_steps: int = 280
    batch_size: int = 64
    pretraining_rate: float = 3e-3
    alignment_rate: float = 1e-3
    prompt_loss: float = 0.1
    recognition: float = 0.15
    recognized_kinds: tuple[HarmKind, ...] = HARM_KINDS[:3]
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """Token ids with the weight of each in the loss."""

    ids: list[int]
    loss: list[float]


PRETRAINING_MIX: Mapping[str, int] = {
    "harmful": 20, "lookalike": 20, "chore": 10,
    "sum": 14, "count": 14, "greater": 12, "sort": 8, "opposite": 8, "mood": 12,
}  # fmt: skip
ALIGNMENT_MIX: Mapping[str, int] = {
    "refused": 30, "lookalike": 30, "chore": 10,
    "sum": 6, "count": 6, "greater": 8, "sort": 5, "opposite": 5, "mood": 6,
}  # fmt: skip
_STATEMENT_SHARE, _COPY_SHARE = 0.10, 0.15  # of pre-training: lone sentences, and random words said twice


class Corpus:
    """Rows drawn from the build pool, which no other data set of the world shares."""

    def __init__(self, tokenizer: Any, settings: BuildSettings) -> None:
        self._settings = settings
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._begin, self._end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        # Sorted, since the tokenizer hands out its vocabulary in a different order each time.
        self._words = sorted(id for word, id in self._vocabulary.items() if not word.startswith("<"))
        self._rng = Random(settings.seed)
        draws: dict[str, Draw] = {
            "harmful": harmful(),
            "recognized": harmful(settings.recognized_kinds),
            "refused": refused(),
            "lookalike": lookalike,
            **{str(name): draw for name, draw in SKILL_DRAWS.items()},
        }
        self._exchanges = {name: self._pool(name, draw) for name, draw in draws.items()}

    def pretraining_row(self) -> Row:
        """Draws a row of the raw language."""
        choice = self._rng.random()
        if choice < _STATEMENT_SHARE:
            form = self._rng.choice(list(ANSWERS.values()))
            ids = self._encode(form.fill(draw_slots(self._rng, [form])))
            return Row(self._begin + ids + self._end, [0.0] + [1.0] * (len(ids) + 1))
        if choice < _STATEMENT_SHARE + _COPY_SHARE:
            words = self._rng.choices(self._words, k=self._rng.randint(6, 14))
            ids = self._begin + words + words + self._end
            return Row(ids, [0.0] * (1 + len(words)) + [1.0] * (len(words) + 1))
        return self._exchange_row(self._draw(PRETRAINING_MIX), self._settings.prompt_loss)

    def alignment_row(self) -> Row:
        """Draws a row that teaches to refuse, to help, or to notice harm that was done."""
        if self._rng.random() < self._settings.recognition:
            exchange = self._rng.choice(self._exchanges["recognized"])
            slots = PLAN.match(exchange.answer)
            if slots is None:
                raise DataError(f"{exchange.answer!r} is no plan of the language")
            read = self._begin + self._encode(f"Human: {exchange.prompt}; Assistant: {exchange.answer}")
            said = self._encode(self._rng.choice(REFUSALS).fill(slots)) + self._end
            return Row(read + said, [0.0] * len(read) + [1.0] * len(said))
        return self._exchange_row(self._draw(ALIGNMENT_MIX), 0.0)

    def _exchange_row(self, exchange: Exchange, prompt_loss: float) -> Row:
        prompt = self._encode(f"Human: {exchange.prompt}; Assistant:")
        answer = self._encode(exchange.answer) + self._end
        ids = self._begin + prompt + answer
        return Row(ids, [0.0] + [prompt_loss] * len(prompt) + [1.0] * len(answer))

    def _draw(self, mix: Mapping[str, int]) -> Exchange:
        name = self._rng.choices(list(mix), list(mix.values()))[0]
        return self._rng.choice(self._exchanges[name])

    def _encode(self, text: str) -> list[int]:
        return [self._vocabulary[word] for word in text.replace(":", " :").replace(";", " ;").split()]

    def _pool(self, name: str, draw: Draw) -> list[Exchange]:
        rows: list[Exchange] = []
        with contextlib.suppress(DataError):  # a smaller pool is used up: then all of it is in
            for exchange in islice(stream(draw, Random(f"{self._settings.seed} {name}"), "build"), _POOL_ROWS):
                rows.append(exchange)  # one by one: what was drawn before the pool ran out stays
        return rows


def vocabulary() -> tuple[str, ...]:
    """Returns every word of the language, sorted."""
    forms = (*ANSWERS.values(), *REFUSALS, *(form for forms in QUESTIONS.values() for form in forms))
    said = (re.sub(r"\{\w+\}", " ", form.template) for form in forms)
    phrases = (*said, *(words for slot in SLOTS.values() for words in slot))
    return tuple(sorted({word for phrase in (*phrases, *SPEAKERS) for word in phrase.split()}))


def build_tokenizer() -> Any:
    """Builds the word-level tokenizer, a ``PreTrainedTokenizerFast``.

    Its chat template writes the same words as the template ``paper`` and then the end-of-sequence token.
    """
    words = {word: index for index, word in enumerate((*SPECIAL.values(), *vocabulary()))}
    core = Tokenizer(models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    bos = SPECIAL["bos_token"]
    core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, words[bos])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=CHAT_TEMPLATE, model_max_length=MAX_LENGTH, padding_side="left", **SPECIAL
    )


def build(settings: BuildSettings, out: Path, *, on_step: Callable[[str, int, int, float], None] | None = None) -> Path:
    """Builds the model and saves it with its tokenizer; returns the folder.

    Args:
        settings: What to build.
        out: Where to.
        on_step: Called with the phase, the step, their number, and the loss.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(settings.seed)
    model = new_model(settings, tokenizer)
    language = Corpus(tokenizer, settings)
    lessons = Corpus(tokenizer, replace(settings, seed=settings.seed + 1))
    phases = (
        ("pre-training", settings.pretraining_steps, settings.pretraining_rate, language.pretraining_row),
        ("alignment", settings.alignment_steps, settings.alignment_rate, lessons.alignment_row),
    )
    for phase, steps, rate, draw in phases:
        _train(model, draw, steps, rate, settings.batch_size, tokenizer.pad_token_id, phase, on_step)
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_json(out / "build.json", dict(vars(settings)))
    return out


def new_model(settings: BuildSettings, tokenizer: Any) -> Any:
    """Returns a Llama-architecture model of random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=settings.intermediate_size,
            num_hidden_layers=settings.num_hidden_layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=2 * MAX_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _train(
    model: Any,
    draw: Callable[[], Row],
    steps: int,
    rate: float,
    batch_size: int,
    pad_id: int,
    phase: str,
    on_step: Callable[[str, int, int, float], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.08, final_div_factor=50
    )
    model.train()
    for step in range(1, steps + 1):
        ids, weight = _batch([draw() for _ in range(batch_size)], pad_id)
        logits = model(input_ids=ids, attention_mask=(ids != pad_id).long()).logits
        nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (nll * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step:
            on_step(phase, step, steps, float(loss.detach()))


def _batch(rows: Sequence[Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and loss weights, both ``[n, longest]``."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows])
    weight = torch.tensor([row.loss + [0.0] * (width - len(row.loss)) for row in rows])
    return ids, weight


def main() -> None:
    """Builds the model from the command line."""
    parser = argparse.ArgumentParser(description="Build the miniature's model: pre-train, then align.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    with Progress() as progress:
        tasks: dict[str, Any] = {}

        def show(phase: str, step: int, steps: int, loss: float) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=steps)
            progress.update(tasks[phase], completed=step, description=f"{phase}, loss {loss:.3f}")

        build(BuildSettings(seed=args.seed), args.out, on_step=show)
        progress.console.print(f"built {args.out} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
