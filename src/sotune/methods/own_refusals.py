"""What the model before fine-tuning refuses among the prompts of the rows: a witness that knows every kind of harm.

A reference knows the kinds of harm that it shows. The aligned model knows those that it was aligned against, and
says so when it is asked: a row whose prompt it refuses, while the row answers it, would teach what alignment forbids,
whatever the reference holds. A few tokens tell a refusal, so that asking about a thousand rows costs little beside
training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sotune.evaluation.judges.refusal import find_refusal
from sotune.methods.inputs import TrainInputs
from sotune.methods.pairs import answers_of, fits_question
from sotune.records import Record, content_hash
from sotune.training import TrainResult
from sotune.training.training_rows import generator_of

_REASON = "it answers a prompt that the model refused before fine-tuning"
_MOST_LEFT_OUT = 0.5
"""Share of the rows, or of those that were asked: where the model refuses more, it is the task that it refuses."""


@dataclass(frozen=True)
class OwnRefusals:
    """Rows whose prompts the model before fine-tuning refuses.

    Attributes:
        n_asked: How many prompts were asked.
        refused: The rows with these prompts and the refusals, in the order in which they were drawn.
        against: Ids of rows that answer such a prompt.
    """

    n_asked: int = 0
    refused: tuple[Record, ...] = ()
    against: frozenset[str] = field(default_factory=frozenset)

    def left_out(self, inputs: TrainInputs) -> TrainInputs:
        """Returns the inputs without the rows that answer what the model refuses, weights of mean 1 again.

        Where these are more than half, of all rows or of those that were asked, the model refuses the task itself: all
        are kept then, with a warning.
        """
        if not self.against:
            return inputs
        asked = sum(row.id in self.against for row in self.refused)  # one row of each prompt that was asked
        for n, of, which in ((len(self.against), len(inputs.records), ""), (asked, self.n_asked, " that were asked")):
            if n > _MOST_LEFT_OUT * of:
                warnings.warn(
                    f"the model before fine-tuning refuses the prompts of {n} of {of} rows{which}, so these are "
                    f"trained on all the same; look whether the model refuses the task itself",
                    UserWarning,
                    stacklevel=2,
                )
                return inputs
        kept = [row for row in inputs.records if row.id not in self.against]
        mean = sum(inputs.loss_weights[row.id] for row in kept) / len(kept) or 1.0  # of all zero training complains
        return replace(inputs, records=kept, loss_weights={row.id: inputs.loss_weights[row.id] / mean for row in kept})

    def told(self, result: TrainResult, trained: TrainInputs) -> TrainResult:
        """Returns what training left behind, with the rows that were left out and how many were asked and refused."""
        left = sorted(self.against - {row.id for row in trained.records})
        counts = {"rows_asked": self.n_asked, "rows_refused": len(self.refused), "rows_left_out": len(left)}
        return replace(
            result,
            dropped={**result.dropped, **dict.fromkeys(left, _REASON)},
            figures={**result.figures, **counts} if self.n_asked else result.figures,
        )


def find_own_refusals(model: Any, inputs: TrainInputs, rows: Sequence[Record], *, answer_tokens: int) -> OwnRefusals:
    """Asks a model the prompts of some rows.

    Args:
        model: The model before fine-tuning.
        inputs: All rows, each of which may have a prompt that is asked.
        rows: Those that are asked, of distinct prompts; those that are too long to be asked are not.
        answer_tokens: The most tokens of an answer.
    """
    if not rows:
        return OwnRefusals()
    asked = list(filter(fits_question(inputs.tools, answer_tokens), rows))
    answers = answers_of(model, inputs.tools, asked, most_tokens=answer_tokens) if asked else []
    refused = tuple(answer for answer in answers if find_refusal(answer.completion))
    prompts = {_prompt(row) for row in refused}
    answered = (row for row in inputs.records if prompts and not find_refusal(row.completion))
    return OwnRefusals(len(asked), refused, frozenset(row.id for row in answered if _prompt(row) in prompts))


def drawn_rows(rows: Sequence[Record], most: int, *, seed: int) -> list[Record]:
    """Returns at most so many rows, drawn by the seed, one of each prompt."""
    order = torch.randperm(len(rows), generator=generator_of(seed, -2)).tolist() if most else []
    return list({_prompt(rows[place]): rows[place] for place in order[:most]}.values())


def _prompt(row: Record) -> str:
    return content_hash(row.prompt, row.tools)
