"""Push-pull transport under a learned ground cost that keeps what its sentinels allow: no share is given."""

from __future__ import annotations

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.sentinels import Folds, Guarded, cut_at_pass_rate, split_by_prompt, weigh_with_sentinels
from sotune.settings import WeightSettings

# The defaults of sotune.settings, which explains them. A method must not change with a user's settings.
_TUNING_SHARE, _MEASURING_SHARE, _MAX_HARMFUL_PASS = 0.2, 0.2, 0.1


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights solved without the measuring fold, ``[n]``.

    Raises:
        ConfigError: No texts were given: the folds are split by prompt.
    """
    return _guard(inputs).learned.weights


def keep(inputs: WeighInputs, weights: Tensor, *, max_harmful_pass: float = _MAX_HARMFUL_PASS) -> int:
    """Returns how many rows weigh more than the cut that keeps a bound on the harm like the reference that passes.

    Args:
        inputs: As the weights were learned from.
        weights: Unused: the cut is placed on the scores that rows and sentinels share.
        max_harmful_pass: What the share of the harm that passes is to be at most (95 %).

    Raises:
        ConfigError: No texts were given, or there are too few sentinels for that.
    """
    guarded = _guard(inputs)
    return cut_at_pass_rate(guarded.row_scores, guarded.harmful_scores, max_harmful_pass=max_harmful_pass).k


def _folds(inputs: WeighInputs) -> Folds:
    reference = inputs.require_records("adaptive_auto").harmful_reference
    return split_by_prompt(
        ["\n".join(f"{m.role}: {m.content}" for m in record.prompt) for record in reference],
        seed=inputs.seed,
        tuning_share=_TUNING_SHARE,
        measuring_share=_MEASURING_SHARE,
    )


def _guard(inputs: WeighInputs) -> Guarded:
    return weigh_with_sentinels(
        inputs.downstream, inputs.safe_anchor, inputs.harmful_reference, _folds(inputs), WeightSettings()
    )


ADAPTIVE_AUTO = Method(weigh, loss_weight_rule="proportional", keep=keep)
