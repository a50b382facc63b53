"""A guard decides on each row: any judge of harm, or the aligned model itself.

A rival that papers leave out. With a guard among the tools, a row's score is the guard's grade of its prompt and
completion, or its verdict where it gives no grades, and what it cannot score ranks last. Without one, the model that is
to be fine-tuned guards itself: a row is the more suspect the likelier the model's own refusals are as answers to its
prompt. That reads prompts alone, so that it drops harmful requests that are refused along with those that are answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sotune.methods.inputs import Tools, WeighInputs
from sotune.methods.method import Method
from sotune.methods.pairs import safety_pairs
from sotune.methods.ranking import judged_scores, rank_with_ties
from sotune.records import Record
from sotune.training.token_losses import score_tokens

_REFUSALS = 3  # of the model's own, with which it guards itself


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights by rank of the guard's score, ``[n]``, ties in an order that the seed decides.

    Raises:
        ConfigError: There are no records, no model or no guard.
        DataError: The model answers no harmful prompt.
    """
    records, tools = inputs.require_records("guard"), inputs.require_tools("guard")
    if tools.guard is None:
        harm = _self_guard(records.downstream, records.harmful_reference, tools)
    else:
        harm = judged_scores(tools.guard, records.downstream, kind="harmful", unscored=torch.inf)
    return rank_with_ties(-harm, [record.id for record in records.downstream], seed=inputs.seed)


def _self_guard(rows: Sequence[Record], harmful_reference: Sequence[Record], tools: Tools) -> Tensor:
    """Returns the mean log-likelihood of a token of the model's refusals after each row's prompt, ``[n]``."""
    pairs = safety_pairs(tools, harmful_reference, most=50)
    refusals = list(dict.fromkeys(pair.completion for pair in pairs))[:_REFUSALS]
    asked = [
        Record.from_text(f"{j} {row.id}", row.prompt, said, tools=row.tools)
        for j, said in enumerate(refusals)
        for row in rows
    ]
    losses = score_tokens(asked, model=tools.model, adapter=None, settings=tools.training)
    likelihood = [[-float(losses[f"{j} {row.id}"].mean()) for j in range(len(refusals))] for row in rows]
    return torch.tensor(likelihood, dtype=torch.float64).logsumexp(1)


METHODS = (Method("guard", "moderation guard", weigher=weigh, needs=frozenset({"model", "judge"})),)
