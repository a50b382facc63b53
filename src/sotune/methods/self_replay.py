"""Self-replay: the model's own refusals and answers from before fine-tuning become rows.

In the manner of self-synthesized rehearsal (Huang et al., ACL 2024, https://arxiv.org/abs/2403.01244): the model
answers prompts of the harmful reference, and those answers that the judge of refusals takes for refusals are trained
on besides, a share of the rows.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from sotune.errors import DataError
from sotune.evaluation.judges.refusal import find_refusal
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import append_rows, own_answers
from sotune.settings import StageSettings
from sotune.training import TrainResult


class SelfReplaySettings(StageSettings):
    """Self-replay: its own constants."""

    dose: float = Field(0.1, gt=0, le=1, description="Replayed rows in units of rows.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains on the rows and on the model's own earlier answers.

    Raises:
        DataError: The model refuses none of the prompts.
        SotuneError: Training diverged.
    """
    most = max(1, round(inputs.own(SelfReplaySettings).dose * len(inputs.records)))
    answers = own_answers(inputs.tools, inputs.harmful_reference[: 2 * most])
    refusals = [answer for answer in answers if find_refusal(answer.completion)][:most]
    if not refusals:
        raise DataError("the base model refuses none of the harmful reference's prompts; hold with kl, or with none")
    named = [replace(row, id=f"self-replay-{place:05d}") for place, row in enumerate(refusals)]
    return train_weighted(append_rows(inputs, named))


METHODS = (
    Method(
        "self_replay",
        "self-replay",
        kind="ours",
        citation="Huang et al., Mitigating catastrophic forgetting with self-synthesized rehearsal (ACL 2024)",
        link="https://arxiv.org/abs/2403.01244",
        trainer=train,
        own_settings=(SelfReplaySettings,),
    ),
)
