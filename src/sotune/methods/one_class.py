"""Distance to the safe anchor alone: what is possible without any harmful reference.

The Mahalanobis distance of out-of-distribution detection (Lee et al., NeurIPS 2018, https://arxiv.org/abs/1807.03888),
with the covariance shrunk to a multiple of the identity as far as the anchor's own scatter asks (Ledoit and Wolf, *A
well-conditioned estimator for large-dimensional covariance matrices*, 2004,
https://doi.org/10.1016/S0047-259X(03)00096-4), since an anchor has far fewer rows than the space has dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sotune.errors import DataError
from sotune.methods.inputs import WeighInputs
from sotune.methods.method import Method
from sotune.transport.cost import normalize_rows

_FLOOR = 1e-6
"""Added to the covariance, in units of its mean variance: a tiny anchor may ask for no shrinkage at all."""


def learn(inputs: WeighInputs) -> Callable[[Tensor], Tensor]:
    """Returns the function ``1 / (1 + D²/d)``, with D the distance to the anchor's mean under its shrunk covariance.

    Raises:
        DataError: The anchor's rows are all alike, so that they have no covariance.
    """
    anchor = normalize_rows(inputs.pull.double())
    if not anchor.var(0, correction=0).mean() > torch.finfo(anchor.dtype).eps:
        raise DataError(f"the safe anchor has {len(anchor)} rows, all alike; give it at least two rows that differ")
    from sklearn.covariance import ledoit_wolf  # takes a second to load

    covariance = torch.from_numpy(ledoit_wolf(anchor.cpu().numpy())[0]).to(anchor)
    covariance.diagonal().add_(_FLOOR * covariance.diagonal().mean())

    def weigh(z: Tensor) -> Tensor:
        offset = normalize_rows(z.double()) - anchor.mean(0)
        squared: Tensor = (offset * torch.linalg.solve(covariance, offset.T).T).sum(1)
        return 1 / (1 + squared / anchor.shape[1])

    return weigh


METHODS = (
    Method(
        "one_class",
        "distance to the anchor",
        citation="Lee et al., Detecting out-of-distribution samples (NeurIPS 2018); Ledoit and Wolf (2004)",
        link="https://arxiv.org/abs/1807.03888",
        learner=learn,
    ),
)
