"""SafeInstr: safe refusals are appended to the data; no row is scored or dropped.

Bianchi et al., *Safety-tuned LLaMAs* (ICLR 2024, https://arxiv.org/abs/2309.07875).

Released code appends a fixed number of its 2,483 pairs to 20,000 rows and takes the loss on prompts too; at n = 1,000
a fixed number would make the set 70 % refusals. Here the dose is a share of the rows, 3 % (more raises over-refusal),
and the loss is that of all methods. The authors' pairs are CC BY-NC and do not ship: pairs come from the
user, or are the harmful reference's prompts with the model's own refusals. The number of steps is everybody's, so that
the extra rows cost the others' share and not time.
"""

from __future__ import annotations

from pydantic import Field

from sotune.errors import ConfigError
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import append_rows, safety_pairs
from sotune.settings import StageSettings
from sotune.training import TrainResult


class SafeInstrSettings(StageSettings):
    """SafeInstr: its own constants."""

    dose: float = Field(0.03, gt=0, le=1, description="Safety pairs in units of rows; more raises over-refusal.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains on the rows and the pairs, the pairs with loss weight 1."""
    return train_weighted(with_pairs(inputs, dose=inputs.own(SafeInstrSettings).dose))


def with_pairs(inputs: TrainInputs, *, dose: float) -> TrainInputs:
    """Appends ``dose · n`` pairs, or as many as there are.

    Args:
        inputs: The kept rows.
        dose: Pairs in units of rows, in (0, 1].

    Raises:
        ConfigError: The dose is out of range.
    """
    if not 0 < dose <= 1:
        raise ConfigError(f"the dose of safety pairs must be in (0, 1]. Got {dose}")
    most = max(1, round(dose * len(inputs.records)))
    pairs = safety_pairs(inputs.tools, inputs.harmful_reference, most=most)
    return append_rows(inputs, pairs)


METHODS = (
    Method(
        "safeinstr",
        "SafeInstr",
        citation="Bianchi et al., Safety-tuned LLaMAs (ICLR 2024)",
        link="https://arxiv.org/abs/2309.07875",
        trainer=train,
        own_settings=(SafeInstrSettings,),
    ),
)
