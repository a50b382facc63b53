"""Mean cosine to the anchor less mean cosine to the harmful reference: the score of LARF.

Li et al., *Layer-aware representation filtering* (EMNLP 2025, https://arxiv.org/abs/2507.18631), which ranks rows by
the same difference at the layer that it finds most sensitive to safety.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.transport.cost import normalize_rows


def learn(inputs: WeighInputs) -> Callable[[Tensor], Tensor]:
    """Returns the function ``(2 + mean cos(z, safe) − mean cos(z, harmful)) / 4``, in [0, 1]."""
    safe, harmful = (normalize_rows(part.double()) for part in (inputs.pull, inputs.harmful_reference))
    difference = safe.mean(0) - harmful.mean(0)
    return lambda z: (2 + normalize_rows(z.double()) @ difference) / 4


METHODS = (
    Method(
        "mean_cosine",
        "mean cosine",
        citation="Li et al., Layer-aware representation filtering (EMNLP 2025), at the last layer",
        link="https://arxiv.org/abs/2507.18631",
        learner=learn,
    ),
)
