"""The strength of the KL term: how even the weights are, given how the rows differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sotune.errors import ConfigError

_MAX_ROUNDS = 200


def gibbs(gradient: Tensor, base_mass: Tensor, tau: float) -> tuple[Tensor, float]:
    """Returns the fixed point's weights for potentials held fixed: ``w ∝ u·exp(−G / tau)``.

    >>> log_weights, _ = gibbs(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]), tau=1.0)
    >>> log_weights.exp()
    tensor([0.7311, 0.2689], dtype=torch.float64)

    Args:
        gradient: ``G``, ``[n]``, in units of cost.
        base_mass: ``u``, ``[n]``.
        tau: Strength of the KL term.

    Returns:
        The logarithm of the weights, ``[n]``, float64, and the log-normalizer ``log Σ u·exp(−G / tau)``.
    """
    log_mass = base_mass.double().log() - gradient.double() / tau
    log_normalizer = float(torch.logsumexp(log_mass, dim=0))
    return log_mass - log_normalizer, log_normalizer


def effective_sample_size(log_weights: Tensor, base_mass: Tensor) -> float:
    """Returns ``1 / Σ w²/u``, in (0, 1]: 1 for ``w = u``; for a uniform ``u`` the usual ``1 / (n Σ w²)``.

    >>> round(effective_sample_size(torch.tensor([0.5, 0.5, 0.0, 0.0]).log(), torch.full((4,), 0.25)), 4)
    0.5
    """
    log_w, log_base = log_weights.double(), base_mass.double().log()
    concentration: Tensor = torch.logsumexp(2 * log_w - log_base, dim=0)
    return math.exp(-float(concentration))


def check_size(target_size: float, base_mass: Tensor) -> None:
    """Checks that an effective sample size is within reach of rows that all differ; one row alone has any size.

    Raises:
        ConfigError: So small an effective sample size cannot be reached with so few rows.
    """
    if base_mass.shape[0] > 1 and target_size <= float(base_mass.max()):
        raise ConfigError(
            f"effective_sample_size={target_size} cannot be reached with {base_mass.shape[0]} rows: one row alone has "
            f"{float(base_mass.max()):.2g}; raise it"
        )


def find_tau(
    gradient: Tensor, base_mass: Tensor, target_size: float, *, rounding: float = 0.0, start: float | None = None
) -> float:
    """Returns the tau at which ``u·exp(−G / tau)``, normalized, has the wanted effective sample size.

    With ``t = 1 / tau`` and ``Z(t) = Σ u·exp(−t·G)`` the effective sample size is ``Z(t)² / Z(2t)``, which falls from
    1 as ``t`` grows; Newton's method on ``log t`` finds it, inside a bracket. It falls no further than to the mass of
    the rows of the least gradient: where that is above the target (most rows are one row, repeated), the middle
    between it and 1 is reached instead. Where the gradient is the same for all rows, but for rounding, every tau gives
    equal weights, and 1 is returned.

    >>> gradient, uniform = torch.tensor([0.0, 0.1, 1.0, 1.1]), torch.full((4,), 0.25)
    >>> tau = find_tau(gradient, uniform, target_size=0.9)
    >>> round(effective_sample_size(gibbs(gradient, uniform, tau)[0], uniform), 6)
    0.9

    Args:
        gradient: ``G``, ``[n]``, in units of cost.
        base_mass: ``u``, ``[n]``.
        target_size: The effective sample size to reach, in (0, 1).
        rounding: How far apart the gradients of equal rows may lie.
        start: A tau that is near; saves rounds.
    """
    g = gradient.double() - gradient.double().min()  # the level of G means nothing, and now no exponent is above 0
    spread = float(g.max())
    if spread <= rounding:
        return 1.0
    least = float(base_mass[g <= rounding].double().sum())
    log_base = base_mass.double().log()
    wanted = math.log(target_size if least < target_size else (1 + least) / 2)
    low, high = 1e-3 / spread, 1e3 / spread
    t = min(max(1 / start if start else 1 / spread, low), high)
    for _ in range(_MAX_ROUNDS):
        once, twice = log_base - t * g, log_base - 2 * t * g
        log_z, log_z2 = torch.logsumexp(once, 0), torch.logsumexp(twice, 0)
        gap = float(2 * log_z - log_z2) - wanted
        low, high = (t, high) if gap > 0 else (low, t)
        # The gap is 2·log Z(t) − log Z(2t) − log target; its derivative by log t is 2t·(E_2t[G] − E_t[G]) ≤ 0.
        slope = 2 * t * float((twice - log_z2).exp() @ g - (once - log_z).exp() @ g)
        proposed = t * math.exp(min(max(-gap / slope, -2), 2)) if slope < 0 else math.nan
        moved = proposed if low < proposed < high else math.sqrt(low * high)
        if abs(moved / t - 1) < 1e-9 or abs(gap) < 1e-12:
            break
        t = moved
    return 1 / t
