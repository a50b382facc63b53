"""What is kept back of the harmful reference, and methods whose weight is a function of the representation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from sotune.methods.inputs import Weighing, WeighInputs
from sotune.records import Record
from sotune.sentinels import LEAST_SENTINELS, Fitted, Folds, fit_with_sentinels, solved_rows, split_records
from sotune.transport import Rows


def split_reference(inputs: WeighInputs) -> tuple[Folds | None, str]:
    """Splits the harmful reference and the safe one, unless the harmful one is too small or sentinels are off.

    Returns:
        The folds, and why there are none.
    """
    if inputs.sentinels.sentinels == "off":
        return None, "sentinels are off: nothing was kept back, so nothing is measured and nothing promised"
    if inputs.records is None:
        return None, "no sentinels: they are split by prompt, but only representations were given"
    folds = _split(inputs.records.harmful_reference, inputs)
    if min(len(folds.tuning), len(folds.measuring), len(folds.reference)) < LEAST_SENTINELS:
        return None, (
            f"no sentinels: the harmful reference is too small to keep some back (folds of {len(folds.reference)}, "
            f"{len(folds.tuning)} and {len(folds.measuring)} rows, and each needs {LEAST_SENTINELS}); nothing is "
            f"measured and nothing promised"
        )
    safe = _split(inputs.records.safe_reference, inputs)
    return replace(folds, safe=safe if safe.measuring and safe.solved else None), ""


def _split(records: Sequence[Record], inputs: WeighInputs) -> Folds:
    """Splits the rows of a reference by their prompts."""
    return split_records(
        records,
        seed=inputs.seed,
        tuning_share=inputs.sentinels.tuning_share,
        measuring_share=inputs.sentinels.measuring_share,
    )


def weigh_by_function(learner: Callable[[WeighInputs], Callable[[Tensor], Tensor]], inputs: WeighInputs) -> Weighing:
    """Learns a function from representation to weight, with sentinels kept back where there are enough.

    Args:
        learner: Learns it.
        inputs: What it may look at.

    Raises:
        SotuneError: See the learner.
    """
    folds, note = split_reference(inputs)
    if folds is None:
        return Weighing(learner(inputs)(inputs.rows), note=note)

    safe = solved_rows(inputs.safe_reference, folds.safe)

    def fit(rows: Rows, safe_anchor: Tensor, harmful_reference: Tensor) -> Fitted:
        seen = replace(inputs, downstream=rows, safe_anchor=safe_anchor, harmful_reference=harmful_reference)
        weigh = learner(replace(seen, safe_reference=safe, records=None))
        return Fitted(weigh(rows[:]), weigh)

    sets = (inputs.downstream, inputs.safe_anchor, inputs.harmful_reference)
    found = fit_with_sentinels(fit, *sets, folds, safe_reference=inputs.safe_reference)
    return Weighing(found.fitted.weights, sentinels=found.sentinels, note="")
