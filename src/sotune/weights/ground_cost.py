r"""Adaptive ground cost: the space is stretched along the direction that tells harm from safety, before transport.

``z ↦ ẑ + factor·(ẑ·v)·v`` with ``ẑ`` of unit length, then cosine distance as in the paper. The direction ``v`` is
learned from the two references and from the downstream rows themselves, without any label of theirs, as the sum of two:

- *near the references*: a logistic probe, safe anchor against harmful reference, and three rounds that add the
  surest downstream rows to each side. Right where the harm in the data is like the reference.
- *near the data*: soft self-training. Each round scores the downstream rows, takes the most harmful-looking few percent
  as harmful, softly, and refits with most of the weight on the downstream rows. Finds harm of another kind, since
  harmful rows are alike among themselves.

The second could run away: with no harm in the data it learns what is merely rare. The references' share of the fit and
the first direction hold it; docs/experiments.md shows how far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.transport import CosineCost, Rows
from sotune.transport.cost import normalize_rows
from sotune.weights.logistic import LinearScore, fit_balanced, fit_logistic

COST_NAMES = ("adaptive", "cosine")
"""Ground costs: learned from the data, and the paper's."""

FACTOR = 2.0
"""How much is added along the learned direction, unless another value is chosen."""

_MAX_ROWS = 10_000  # a direction needs no more
_SAMPLE_SEED = 0

PROBE_REGULARIZATION = 10.0
"""Inverse regularization C of the probe on the references."""

_SURE_ROUNDS, _SURE_SAFE, _SURE_HARMFUL, _SURE_REGULARIZATION = 3, 0.5, 0.03, 1.0
_SOFT_ROUNDS, _SOFT_HARMFUL, _SOFT_SPREAD = 15, 0.03, 2.0
_SOFT_MASS, _REFERENCE_SHARE = 2000.0, 0.3
_DATA_PART = 2.0


@dataclass(frozen=True)
class Stretch:
    """A learned change of the space.

    Attributes:
        direction: ``v``, ``[d]``, unit length, towards harm; zero where all rows are alike.
        factor: How much is added along it; 0 leaves the space as it is.
    """

    direction: Tensor
    factor: float

    def __call__(self, z: Tensor) -> Tensor:
        """Returns representations ``[k, d]``, stretched; their length means nothing.

        Raises:
            DataError: A row is zero or not finite.
        """
        unit = normalize_rows(z)
        direction = self.direction.to(unit)
        return unit + self.factor * (unit @ direction)[:, None] * direction


class StretchedRows:
    """Rows that are stretched when they are read."""

    def __init__(self, rows: Rows, stretch: Stretch) -> None:
        self._rows, self._stretch = rows, stretch

    @property
    def shape(self) -> torch.Size:
        """The pair ``(n, d)``."""
        return self._rows.shape

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the rows."""
        return self._rows.dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are handed out."""
        return self._rows.device

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows, stretched."""
        return self._stretch(self._rows[rows])


def stretched_cost(x: Rows, y: Tensor, stretch: Stretch | None) -> CosineCost:
    """Returns the cosine cost between rows and columns in the stretched space, or in the plain one."""
    return CosineCost(x, y) if stretch is None else CosineCost(StretchedRows(x, stretch), stretch(y))


def learn_stretch(downstream: Rows, safe_anchor: Tensor, harmful_reference: Tensor) -> Stretch:
    """Learns along which direction to stretch.

    Args:
        downstream: Representations of the rows to weigh, ``[n, d]``; of many, a sample is read.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.

    Raises:
        DataError: A row is zero or not finite.
        SotuneError: A fit diverged.
    """
    rows = normalize_rows(_sample(downstream), name="rows")
    safe, harmful = (normalize_rows(z, name="columns") for z in (safe_anchor, harmful_reference))
    probe = fit_balanced(safe, harmful, inverse_regularization=PROBE_REGULARIZATION)
    near_references = train_on_sure_rows(rows, safe, harmful, probe)
    near_data = train_softly(rows, safe, harmful, probe)
    return Stretch(_unit(_unit(near_references.direction) + _DATA_PART * _unit(near_data.direction)), FACTOR)


def train_on_sure_rows(rows: Tensor, safe: Tensor, harmful: Tensor, score: LinearScore) -> LinearScore:
    """Adds the surest downstream rows to each side and refits, three times (the self-trained probe).

    Each round adds the half of the rows that look safest to the anchor, and the 3 % that look most harmful to the
    reference (both rounded down), in place of those that the round before added.

    Args:
        rows: Unit-length downstream rows, ``[n, d]``.
        safe: The anchor, ``[m_safe, d]``.
        harmful: The harmful reference, ``[m_harmful, d]``.
        score: Log-odds of harm to begin with.
    """
    n = len(rows)
    n_safe, n_harmful = int(_SURE_SAFE * n), int(_SURE_HARMFUL * n)
    for _ in range(_SURE_ROUNDS):
        order = score(rows).argsort(stable=True)
        more_safe, more_harmful = rows[order[:n_safe]], rows[order[n - n_harmful :]]
        score = fit_balanced(
            torch.cat([safe, more_safe]),
            torch.cat([harmful, more_harmful]),
            inverse_regularization=_SURE_REGULARIZATION,
            start=score,
        )
    return score


def train_softly(rows: Tensor, safe: Tensor, harmful: Tensor, score: LinearScore) -> LinearScore:
    """Takes a few percent of the downstream rows as harmful, softly, by the last score, and refits, many times.

    Each side has the same mass; on each, the reference has a share of it and the downstream rows the rest.

    Args:
        rows: Unit-length downstream rows, ``[n, d]``.
        safe: The anchor, ``[m_safe, d]``.
        harmful: The harmful reference, ``[m_harmful, d]``.
        score: Log-odds of harm to begin with.
    """
    z = torch.cat([safe, harmful, rows])
    unit = _SOFT_MASS / 2 / (1 + _REFERENCE_SHARE)
    of_safe = torch.full((len(safe),), _REFERENCE_SHARE * unit / len(safe), dtype=torch.float64, device=z.device)
    of_harmful = torch.full(
        (len(harmful),), _REFERENCE_SHARE * unit / len(harmful), dtype=torch.float64, device=z.device
    )
    for _ in range(_SOFT_ROUNDS):
        belief = soft_labels(score(rows))
        negative = torch.cat([of_safe, 0 * of_harmful, unit * (1 - belief) / (1 - belief).sum()])
        positive = torch.cat([0 * of_safe, of_harmful, unit * belief / belief.sum()])
        score = fit_logistic(z, negative, positive, start=score)
    return score


def soft_labels(scores: Tensor) -> Tensor:
    """Returns the belief that each row is harmful, ``[n]``: a sigmoid of the scaled score, of a given mean.

    Args:
        scores: Larger is more harmful, ``[n]``.
    """
    scaled = scores.double() * (_SOFT_SPREAD / max(float(scores.double().std()), 1e-12))
    low, high = float(scaled.min()) - 50, float(scaled.max()) + 50
    for _ in range(60):
        middle = (low + high) / 2
        too_many = float(torch.sigmoid(scaled - middle).mean()) > _SOFT_HARMFUL
        low, high = (middle, high) if too_many else (low, middle)
    return torch.sigmoid(scaled - (low + high) / 2)


def _unit(direction: Tensor) -> Tensor:
    """Returns a direction of length 1; zero stays zero, where no row differs from another."""
    return direction / max(float(direction.norm()), math.ulp(0.0))


def _sample(downstream: Rows) -> Tensor:
    n = downstream.shape[0]
    if n <= _MAX_ROWS:
        return downstream[:]
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    return downstream[torch.randperm(n, generator=generator)[:_MAX_ROWS].sort().values]
