"""Answers of the model before fine-tuning, and how far the model has drifted from them since.

Drift is ``Σ_t a_t·KL(p_0(· | x, y_<t) ‖ p(· | x, y_<t)) / Σ_t a_t`` over the tokens of some answers y, in nats a token.
y is the greedy answer of p_0, the model before fine-tuning, and ``a_t = t^−decay``: whether a prompt is refused is
settled by the first words (Qi et al., ICLR 2025, https://arxiv.org/abs/2406.05946), which count more by a decay of 1
and like all others by one of 0. Of p_0 one state a token is kept, so that a step costs no pass over it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sotune.artifacts import sha256_json
from sotune.errors import DataError
from sotune.evaluation.judges.refusal import find_refusal
from sotune.methods.inputs import TrainInputs
from sotune.methods.pairs import fits_question, own_answers
from sotune.methods.still_refuses import StillRefuses, warn_of_compliance, warn_of_refusals
from sotune.models import evaluating
from sotune.records import Record, content_hash
from sotune.training.loss import IGNORE_INDEX, shift_labels
from sotune.training.output_layer import keep_states
from sotune.training.training_rows import RowBatches, build_equal_rows, draw_in_passes

_MEASURED_AT_ONCE = 32
_HELD_OUT = 3  # every third prompt


class Departure(NamedTuple):
    """How far a model is from what it was: drift in nats a token, and the shift of states as a share of them."""

    drift: Tensor
    shift: Tensor


class HeldAnswers:
    """Some prompts with the answers of the model before fine-tuning.

    Args:
        rows: The prompts with the answers.
        decay: How fast a token's share falls with its place in the answer, ≥ 0.
    """

    def __init__(self, rows: RowBatches, *, decay: float) -> None:
        self._rows, self._decay = rows, decay
        self._states: list[Tensor] = []
        self._logits: Callable[[Tensor], Tensor] = torch.nn.Identity()

    def __len__(self) -> int:
        return len(self._rows.rows)

    @property
    def mean_length(self) -> float:
        """Mean tokens of a prompt with its answer."""
        return sum(len(row.input_ids) for row in self._rows.rows) / len(self)

    @property
    def name(self) -> str:
        """Names the answers and what their tokens count."""
        texts = sha256_json([row.input_ids.tolist() for row in self._rows.rows])
        return f"answers={texts[:16]} decay={self._decay}"

    def start(self, model: Any) -> None:
        """Keeps the states of the model with its adapter off, before the first step."""
        self._states = []
        with evaluating(model), model.disable_adapter():
            for positions in _parts(range(len(self))):
                batch, predicts, _ = self._take(positions, model)
                states, self._logits = keep_states(model, batch, predicts)
                self._states += torch.split(states, predicts.sum(dim=1).tolist())

    def compare(self, model: Any, positions: Sequence[int]) -> Departure:
        """Returns how far the model is from what it was on some of the answers, with the gradient."""
        batch, predicts, shares = self._take(positions, model)
        then = torch.cat([self._states[i] for i in positions])
        with torch.no_grad():
            before = self._logits(then).float().log_softmax(dim=-1)
        now, logits = keep_states(model, batch, predicts)
        after = logits(now).float().log_softmax(dim=-1)
        divergence = (before.exp() * (before - after)).sum(dim=-1)
        moved, size = ((now - then).float() ** 2).sum(dim=-1), (then.float() ** 2).sum(dim=-1)
        return Departure((shares * divergence).sum() / shares.sum(), (shares * moved).sum() / (shares * size).sum())

    def measure(self, model: Any) -> float:
        """Returns the drift over all answers."""
        total = mass = 0.0
        with evaluating(model):
            for positions in _parts(range(len(self))):
                share = float(self._take(positions, model)[2].sum())
                total, mass = total + share * float(self.compare(model, positions).drift), mass + share
        return total / mass

    def drawn(self, n: int, *, seed: int, step: int) -> list[int]:
        """Returns which of the answers a step looks at."""
        return draw_in_passes(n, of=len(self), seed=seed, step=step)

    def _take(self, positions: Sequence[int], model: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Returns a batch of answers, where their tokens are predicted, and the share of each of these tokens."""
        drawn = self._rows.take(positions, next(model.parameters()).device)
        predicts = shift_labels(drawn["labels"]) != IGNORE_INDEX
        places = predicts.cumsum(dim=1)[predicts].float()
        return {name: drawn[name] for name in ("input_ids", "attention_mask")}, predicts, places**-self._decay


def _parts(positions: range) -> Iterable[range]:
    return (positions[start : start + _MEASURED_AT_ONCE] for start in positions[::_MEASURED_AT_ONCE])


@dataclass(frozen=True)
class HeldSets:
    """Answers to hold, and answers to other prompts of the same source, to measure by.

    Attributes:
        risky: To prompts of the harmful reference, which are mostly refusals.
        harmless: To prompts that shall be answered; ``None`` where there are none.
        unseen: To prompts of the harmful reference that no step looks at; ``None`` where the reference is too small.
        refuses: Asks again at the end; ``None``: no one asks.
    """

    risky: HeldAnswers
    harmless: HeldAnswers | None
    unseen: HeldAnswers | None
    refuses: StillRefuses | None = None


def held_sets(
    inputs: TrainInputs,
    harmless: Sequence[Record],
    *,
    more_risky: Sequence[Record] = (),
    model: Any = None,
    risky: int,
    n_harmless: int,
    answer_tokens: int,
    decay: float,
) -> HeldSets:
    """Asks the model before fine-tuning.

    Of prompts that may be answered only those are held that it does answer. A safe reference often shows risky prompts,
    of which a small model refuses most: to hold these refusals too would leave nothing that keeps it from more.

    Args:
        inputs: All that training may look at.
        harmless: Rows whose prompts may be answered; perhaps none. Those that are not held are kept to measure by.
        more_risky: Rows with risky prompts of other kinds; a third of these too is kept to measure by.
        model: The model before fine-tuning, where it is loaded already.
        risky: How many prompts of the harmful reference are held; half as many more are kept to measure by.
        n_harmless: How many of the harmless prompts are held, at most, and two thirds of those that the model answers.
        answer_tokens: The most tokens of an answer.
        decay: See `HeldAnswers`.

    Raises:
        DataError: None of the risky prompts can be asked, or the model answers none.
    """
    sets = _prompts(inputs, harmless, more_risky, risky=risky, answer_tokens=answer_tokens)
    asked = [replace(row, id=f"{name}/{place}") for name, rows in sets.items() for place, row in enumerate(rows)]
    answered = own_answers(inputs.tools, asked, most_tokens=answer_tokens, model=model)
    answers = {name: [row for row in answered if row.id.startswith(f"{name}/")] for name in sets}
    answers["harmless"], others = _complied(answers["harmless"], n_harmless)

    def held(name: str) -> HeldAnswers | None:
        if not answers[name]:
            return None
        return HeldAnswers(build_equal_rows(answers[name], inputs.tools.renderer), decay=decay)

    held_risky = held("risky")
    if held_risky is None:
        raise DataError(
            "the base model answers none of the harmful reference, so nothing can be held; train with hold: none"
        )
    warn_of_compliance([*answers["risky"], *answers["unseen"]])
    warn_of_refusals([*answers["harmless"], *others])
    before = {"risky": answers["unseen"] or answers["risky"], "harmless": others}
    refuses = StillRefuses(before, inputs.tools, answer_tokens=answer_tokens)
    return HeldSets(held_risky, held("harmless"), held("unseen"), refuses)


def _prompts(
    inputs: TrainInputs, harmless: Sequence[Record], more_risky: Sequence[Record], *, risky: int, answer_tokens: int
) -> dict[str, list[Record]]:
    """Returns the distinct rows whose prompts can be asked: risky ones, those that no step looks at, harmless ones.

    Raises:
        DataError: There are no risky ones.
    """
    fits = fits_question(inputs.tools, answer_tokens)
    short = filter(fits, _distinct(inputs.harmful_reference))
    of_reference = itertools.islice(short, risky + risky // (_HELD_OUT - 1))
    held, unseen = _apart(_distinct([*of_reference, *filter(fits, more_risky)]))
    if not held:
        raise DataError(
            "none of the harmful reference's prompts can be asked: each is longer than max_length or the template "
            "refuses it; raise max_length, or train with hold: none"
        )
    return {"risky": held, "unseen": unseen, "harmless": list(filter(fits, _distinct(harmless)))}


def _complied(answers: Sequence[Record], most: int) -> tuple[list[Record], list[Record]]:
    """Returns the answers that are no refusals, at most so many and two thirds of them, and all the others."""
    complied = [row for row in answers if find_refusal(row.completion) is None]
    kept = complied[: min(most, len(complied) - len(complied) // _HELD_OUT)]
    return kept, [row for row in answers if row not in kept]


def _apart(rows: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Returns the rows that are held, and those that no step looks at: every third, where there are more than three."""
    unseen = rows[_HELD_OUT - 1 :: _HELD_OUT] if len(rows) > _HELD_OUT else []
    return [row for row in rows if row not in unseen], list(unseen)


def _distinct(rows: Iterable[Record]) -> list[Record]:
    """Returns one row for each prompt."""
    return list({content_hash(row.prompt, row.tools): row for row in reversed(list(rows))}.values())[::-1]
