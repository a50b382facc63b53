"""What the model before fine-tuning refuses among the prompts of the rows: a witness that knows every kind of harm.

A reference knows the kinds of harm that it shows. The aligned model knows those that it was aligned against, and
says so when it is asked: a row whose prompt it refuses, while the row answers it, would teach what alignment forbids,
whatever the reference holds. A few tokens tell a refusal, so that asking about a thousand rows costs little beside
training. Small models refuse much that is harmless as well; how much, the safe anchor tells, whose rows are all right
to answer: where refusals of rows would be false ones for the larger part by that measure, they are not heeded.
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
"""Share of the rows: where the model refuses more, it is the task that it refuses."""
_MOST_FALSE = 0.5
"""Share of the refusals that may be of harmless prompts, as the safe anchor tells."""
_ANCHOR_ROWS = 128


@dataclass(frozen=True)
class OwnRefusals:
    """Rows whose prompts the model before fine-tuning refuses.

    Attributes:
        n_asked: How many prompts were asked.
        refused: The rows with these prompts and the refusals, in the order in which they were drawn.
        against: Ids of rows that answer such a prompt.
        share: Of the prompts that were asked, those that are refused and that a row answers.
        share_of_anchor: The same of the safe anchor.
    """

    n_asked: int = 0
    refused: tuple[Record, ...] = ()
    against: frozenset[str] = field(default_factory=frozenset)
    share: float = 0.0
    share_of_anchor: float = 0.0

    def doubt(self, n_rows: int) -> str:
        """Returns why the refusals say nothing about so many rows; empty where they are heeded."""
        if len(self.against) > _MOST_LEFT_OUT * n_rows:
            return (
                f"refuses the prompts of {len(self.against)} of {n_rows} rows, so these are trained on all the same; "
                "look whether the model refuses the task itself"
            )
        if self.share_of_anchor > _MOST_FALSE * self.share:
            return (
                f"refuses {self.share:.0%} of the rows' prompts and {self.share_of_anchor:.0%} of the safe anchor's, "
                "which are harmless, so its refusals are not heeded; harm of kinds that the harmful reference lacks "
                "may be learned: give a reference that has them"
            )
        return ""

    def to_hold(self, rows: Sequence[Record]) -> list[Record]:
        """Returns the refusals of prompts that a row answers.

        Rows that refuse teach it themselves, in their own words, which holding the model's words would work against.
        """
        answered = {_prompt(row) for row in rows if row.id in self.against}
        return [] if self.doubt(len(rows)) else [row for row in self.refused if _prompt(row) in answered]

    def left_out(self, inputs: TrainInputs) -> TrainInputs:
        """Returns the inputs without the rows that answer what the model refuses, weights of mean 1 again.

        Where these are more than half, the model refuses the task itself, and where it refuses the safe anchor nearly
        as often, what is harmless: all are kept then, with a warning.
        """
        if not self.against:
            return inputs
        if doubt := self.doubt(len(inputs.records)):
            warnings.warn(f"the model before fine-tuning {doubt}", UserWarning, stacklevel=2)
            return inputs
        kept = [row for row in inputs.records if row.id not in self.against]
        mean = sum(inputs.loss_weights[row.id] for row in kept) / len(kept) or 1.0  # of all zero training complains
        return replace(inputs, records=kept, loss_weights={row.id: inputs.loss_weights[row.id] / mean for row in kept})

    def told(self, result: TrainResult, trained: TrainInputs) -> TrainResult:
        """Returns what training left behind, with the rows that were left out and how many were asked and refused."""
        left = sorted(self.against - {row.id for row in trained.records})
        anchor = {"anchor_refused": self.share_of_anchor} if self.share_of_anchor else {}
        counts = {**anchor, "rows_asked": self.n_asked, "rows_refused": len(self.refused), "rows_left_out": len(left)}
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
    n_asked, refused = _refusals(model, inputs, rows, answer_tokens)
    against = _answering(inputs.records, refused)
    if not against:
        return OwnRefusals(n_asked, refused)
    of_anchor, refused_anchor = _refusals(model, inputs, inputs.safe_anchor[:_ANCHOR_ROWS], answer_tokens)
    return OwnRefusals(
        n_asked,
        refused,
        frozenset(row.id for row in against),
        share=len({_prompt(row) for row in against}) / n_asked,
        share_of_anchor=len(_answering(inputs.safe_anchor[:_ANCHOR_ROWS], refused_anchor)) / max(1, of_anchor),
    )


def _refusals(
    model: Any, inputs: TrainInputs, rows: Sequence[Record], answer_tokens: int
) -> tuple[int, tuple[Record, ...]]:
    """Returns how many of the rows could be asked, and the refusals."""
    asked = list(filter(fits_question(inputs.tools, answer_tokens), rows))
    answers = answers_of(model, inputs.tools, asked, most_tokens=answer_tokens) if asked else []
    return len(asked), tuple(answer for answer in answers if find_refusal(answer.completion))


def _answering(rows: Sequence[Record], refused: Sequence[Record]) -> list[Record]:
    """Returns the rows that answer a prompt which was refused."""
    prompts = {_prompt(row) for row in refused}
    return [row for row in rows if prompts and not find_refusal(row.completion) and _prompt(row) in prompts]


def drawn_rows(rows: Sequence[Record], most: int, *, seed: int) -> list[Record]:
    """Returns at most so many rows, drawn by the seed, one of each prompt."""
    order = torch.randperm(len(rows), generator=generator_of(seed, -2)).tolist() if most else []
    return list({_prompt(rows[place]): rows[place] for place in order[:most]}.values())


def _prompt(row: Record) -> str:
    return content_hash(row.prompt, row.tools)
