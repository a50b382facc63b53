"""A logistic probe on the two references: the rival that papers leave out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.errors import SotuneError
from sotune.methods.base import Method, WeighInputs
from sotune.transport.cost import normalize_rows

INVERSE_REGULARIZATION = 10.0
_MAX_ITERS = 500


@dataclass(frozen=True)
class LogisticModel:
    """A fitted logistic regression, safe against harmful.

    Attributes:
        direction: ``[d]``, float64; points to safe.
        offset: Scalar, float64.
    """

    direction: Tensor
    offset: Tensor

    def log_odds(self, z: Tensor) -> Tensor:
        """Returns the log-odds of safe, ``[n]``, of rows ``[n, d]`` in float64, dense or sparse."""
        return z @ self.direction + self.offset


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns each row's probability of being safe, ``[n]``."""
    return torch.sigmoid(safe_log_odds(inputs))


def safe_log_odds(inputs: WeighInputs, *, inverse_regularization: float = INVERSE_REGULARIZATION) -> Tensor:
    """Fits the probe on unit-length representations of the references.

    Args:
        inputs: The representations.
        inverse_regularization: C, > 0.

    Returns:
        The log-odds of safe of each downstream row, ``[n]``.

    Raises:
        SotuneError: The fit did not converge.
    """
    safe, harmful = (normalize_rows(z.double()) for z in (inputs.safe_anchor, inputs.harmful_reference))
    model = fit_logistic(safe, harmful, inverse_regularization=inverse_regularization)
    return model.log_odds(normalize_rows(inputs.downstream.double()))


def fit_logistic(safe: Tensor, harmful: Tensor, *, inverse_regularization: float) -> LogisticModel:
    """Fits class-balanced logistic regression, safe rows against harmful rows.

    Minimizes ``½‖v‖² + C·Σ_i s_i·log(1 + exp(−y_i (v·z_i + c)))`` with ``s_i = n / (2·n_class)``, by L-BFGS in float64.

    Args:
        safe: ``[n_safe, d]``, float64, dense or sparse in coordinates; n_safe ≥ 1.
        harmful: ``[n_harmful, d]``, likewise.
        inverse_regularization: C, > 0.

    Raises:
        SotuneError: The fit did not converge.
    """
    n_safe, n_harmful = safe.shape[0], harmful.shape[0]
    z = torch.cat([safe, harmful])
    sign = torch.cat([torch.ones(n_safe), -torch.ones(n_harmful)]).to(z)
    balance = torch.where(sign > 0, z.shape[0] / (2 * n_safe), z.shape[0] / (2 * n_harmful))
    direction = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, device=z.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [direction, offset],
        max_iter=_MAX_ITERS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        margins = sign * (z @ direction + offset)
        penalty = direction @ direction / 2
        value: Tensor = penalty + inverse_regularization * (balance * torch.nn.functional.softplus(-margins)).sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return value

    value = optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if not torch.isfinite(value):
        raise SotuneError("the logistic probe diverged; look for constant or extreme representations")
    return LogisticModel(direction.detach(), offset.detach())


PROBE = Method(weigh, loss_weight_rule="uniform")
