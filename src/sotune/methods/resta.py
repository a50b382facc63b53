"""RESTA: harm is subtracted from the adapter after training.

Bhardwaj et al., *Language models are Homer Simpson! Safety re-alignment of fine-tuned language models through task
arithmetic* (ACL 2024, https://arxiv.org/abs/2402.11746): to the tuned weights is added γ times the *safety vector*, the
aligned model less the same model tuned on harm. The variant that drops and rescales entries is left out.

The harm-tuned model is an adapter of the same shape on the harmful reference, with the budget's settings, so that the
sum is a plain adapter of twice the rank and the base model is untouched. γ is ½ (ours; the paper tunes it).
"""

from __future__ import annotations

from pydantic import Field

from sotune.methods.folding import LowRank, beside, load_layers, rewrite
from sotune.methods.inputs import EditInputs
from sotune.methods.method import Method
from sotune.methods.tuned import tune_on
from sotune.settings import StageSettings


class RestaSettings(StageSettings):
    """RESTA: its own constants."""

    gamma: float = Field(0.5, ge=0, description="How much of the harm-tuned update is taken off (ours).")


def edit(inputs: EditInputs) -> None:
    """Subtracts γ times the harm-tuned update from the adapter, in place.

    Raises:
        DataError: The harmful reference has no row to train on.
    """
    gamma = inputs.trained.own(RestaSettings).gamma
    harm = load_layers(tune_on(inputs.trained.harmful_reference, inputs.trained.tools, name="harm"))

    def subtract(name: str, update: LowRank) -> LowRank:
        return beside(update, LowRank(harm[name].a, -gamma * harm[name].b))

    rewrite(inputs.adapter, subtract)


METHODS = (
    Method(
        "resta",
        "RESTA",
        citation="Bhardwaj et al., Language models are Homer Simpson! (ACL 2024)",
        link="https://arxiv.org/abs/2402.11746",
        editor=edit,
        own_settings=(RestaSettings,),
    ),
)
