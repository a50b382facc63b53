"""Logistic regression with soft labels: what tells two sets of representations apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.errors import SotuneError

_MAX_ITERS = 200


@dataclass(frozen=True)
class LinearScore:
    """A linear function of representations.

    Attributes:
        direction: ``[d]``, float64.
        offset: Its value at zero.
    """

    direction: Tensor
    offset: float

    def __call__(self, z: Tensor) -> Tensor:
        """Returns the log-odds of the second class for rows ``[k, d]``, float64."""
        return z.double() @ self.direction + self.offset


def fit_logistic(
    z: Tensor, negative: Tensor, positive: Tensor, *, start: LinearScore | None = None, tolerance: float = 1e-5
) -> LinearScore:
    """Minimizes ``½‖v‖² + Σ_i negative_i·log(1 + e^{m_i}) + positive_i·log(1 + e^{−m_i})`` with ``m = z·v + c``.

    By L-BFGS in float64. The sum of the masses is the inverse regularization: masses that sum to C·n are the usual C.

    Args:
        z: Rows, ``[n, d]``, dense or sparse in coordinates.
        negative: Mass of each row as a member of the first class, ``[n]``, ≥ 0.
        positive: The same for the second class.
        start: Where to begin.
        tolerance: Largest entry of the gradient, relative to the total mass, that counts as solved.

    Raises:
        SotuneError: The fit diverged.
    """
    z, negative, positive = z.double(), negative.double(), positive.double()
    total = float(negative.sum() + positive.sum())
    parameters = torch.zeros(z.shape[1] + 1, dtype=torch.float64, device=z.device)
    if start is not None:
        parameters[:-1], parameters[-1] = start.direction, start.offset
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_MAX_ITERS,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        direction = parameters[:-1]
        margins = z @ direction + parameters[-1]
        softplus = torch.nn.functional.softplus
        value = direction @ direction / 2 + negative @ softplus(margins) + positive @ softplus(-margins)
        slope = negative * torch.sigmoid(margins) - positive * torch.sigmoid(-margins)
        parameters.grad = torch.cat([direction + z.T @ slope, slope.sum()[None]]) / total
        return value / total

    value = optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if not torch.isfinite(value):
        raise SotuneError("the logistic fit diverged; look for constant or extreme representations")
    return LinearScore(parameters[:-1].clone(), float(parameters[-1]))


def fit_balanced(
    first: Tensor,
    second: Tensor,
    *,
    inverse_regularization: float,
    start: LinearScore | None = None,
    tolerance: float = 1e-5,
) -> LinearScore:
    """Fits class-balanced logistic regression: row i has the mass ``C·n / (2·n_class)``.

    >>> score = fit_balanced(torch.tensor([[-1.0], [-2.0]]), torch.tensor([[1.0]]), inverse_regularization=10.0)
    >>> score(torch.tensor([[-1.5], [1.0]])) > 0
    tensor([False,  True])

    Args:
        first: Rows of the first class, ``[k, d]``, dense or sparse in coordinates; at least one.
        second: The same of the second class, whose log-odds come out.
        inverse_regularization: C, > 0.
        start: Where to begin.
        tolerance: See `fit_logistic`.

    Raises:
        SotuneError: The fit diverged.
    """
    z = torch.cat([first, second])
    side = torch.cat([torch.zeros(first.shape[0]), torch.ones(second.shape[0])]).to(z.device).double()
    half = inverse_regularization * z.shape[0] / 2
    negative, positive = (1 - side) * half / first.shape[0], side * half / second.shape[0]
    return fit_logistic(z, negative, positive, start=start, tolerance=tolerance)
