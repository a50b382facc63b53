"""Mean cosine to the anchor less mean cosine to the harmful reference: the score of LARF.

Li et al., *Layer-aware representation filtering* (EMNLP 2025, https://arxiv.org/abs/2507.18631), which ranks rows by
the same difference at the layer that it finds most sensitive to safety.
"""

from __future__ import annotations

from torch import Tensor

from sotune.methods.base import Method, WeighInputs
from sotune.transport.cost import normalize_rows


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns ``(2 + mean cos(z, safe) − mean cos(z, harmful)) / 4``, in [0, 1], ``[n]``."""
    z, safe, harmful = (
        normalize_rows(part.double()) for part in (inputs.downstream, inputs.safe_anchor, inputs.harmful_reference)
    )
    return (2 + z @ (safe.mean(0) - harmful.mean(0))) / 4


MEAN_COSINE = Method(weigh, loss_weight_rule="uniform")
