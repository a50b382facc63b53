r"""Ground costs: what it costs to move a row's mass to a reference row.

*Cosine* is the paper's. *Adaptive* stretches the space first, along the direction that tells harm from safety:
``z ↦ ẑ + stretch·(ẑ·v)·v`` with ``ẑ`` of unit length, then cosine distance as in the paper. The direction ``v`` is
learned from the two references and from the downstream rows themselves, without any label of theirs, as the sum of two:

- *near the references*: a logistic probe, what pulls against the harmful reference, and three rounds that add the
  surest downstream rows to each side. Right where the harm in the data is like the reference.
- *near the data*: soft self-training. Each round scores the downstream rows, takes the most harmful-looking few percent
  as harmful, softly, and refits with most of the weight on the downstream rows. Finds harm of another kind, since
  harmful rows are alike among themselves.

The second could run away: with no harm in the data it learns what is merely rare. The references' share of the fit and
the first direction hold it; docs/experiments.md shows how far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.settings import WeightSettings
from sotune.transport import CosineCost, CostMatrix, Rows, RowView
from sotune.transport.cost import normalize_rows
from sotune.weights.logistic import LinearScore, fit_balanced, fit_logistic

_MAX_ROWS = 10_000  # a direction needs no more
_SAMPLE_SEED = 0

PROBE_REGULARIZATION = 10.0
"""Inverse regularization C of the probe on the references."""

_SURE_ROUNDS, _SURE_SAFE, _SURE_HARMFUL, _SURE_REGULARIZATION = 3, 0.5, 0.03, 1.0
_SOFT_ROUNDS, _SOFT_HARMFUL, _SOFT_SPREAD = 15, 0.03, 2.0
_SOFT_MASS, _REFERENCE_SHARE = 2000.0, 0.3
_DATA_PART = 2.0


class GroundCost(Protocol):
    """A cost between a row and a reference row, by their representations; fitted to the data before it is used.

    One class is one cost; its line in `COSTS`, and its name among those of ``WeightSettings.cost``, make it a setting.
    """

    @property
    def name(self) -> str:
        """What settings and files call it."""
        ...

    @property
    def relaxation(self) -> float:
        """The relaxation of the references' columns that suits it, see `sotune.transport.Kernel`."""
        ...

    @classmethod
    def of(cls, settings: WeightSettings) -> Self:
        """Makes it as some settings say."""
        ...

    def fit(self, downstream: Rows, pull: Tensor, push: Tensor) -> Self:
        """Returns the cost with what it learns from the data: from rows ``[n, d]``, ``[m_pull, d]``, ``[m_push, d]``.

        The rows that pull are those of the safe anchor and, where there is one, of the safe reference after them. What
        is fitted already stays as it is.
        """
        ...

    def between(self, rows: Rows, reference: Tensor) -> CostMatrix:
        """Returns the cost between rows ``[k, d]``, seen or unseen, and reference rows ``[m, d]``."""
        ...

    def state(self) -> dict[str, float | Tensor]:
        """Returns the numbers and tensors that make it, to be saved."""
        ...

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Makes it of its saved state."""
        ...


@dataclass(frozen=True)
class Cosine:
    """Cosine distance, the paper's ground cost (§4.1), with equal use of all reference rows (Eq. 4). Learns nothing."""

    name: ClassVar[str] = "cosine"
    relaxation: ClassVar[float] = math.inf

    @classmethod
    def of(cls, settings: WeightSettings) -> Self:
        """Makes it; it has no settings."""
        return cls()

    def fit(self, downstream: Rows, pull: Tensor, push: Tensor) -> Self:
        """Returns itself."""
        return self

    def between(self, rows: Rows, reference: Tensor) -> CosineCost:
        """Returns ``1 − cos(x_i, y_j)``, ``[k, m]``."""
        return CosineCost(rows, reference)

    def state(self) -> dict[str, float | Tensor]:
        """Returns nothing: nothing is learned."""
        return {}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Makes it."""
        return cls()


@dataclass(frozen=True)
class Adaptive:
    """Cosine distance after the space is stretched along the direction that tells harm from safety.

    Attributes:
        stretch: How much is added along the direction; 0 leaves the space as it is.
        direction: ``v``, ``[d]``, unit length, towards harm; zero where all rows are alike. ``None`` before `fit`.
    """

    stretch: float = WeightSettings.model_fields["stretch"].default
    direction: Tensor | None = None

    name: ClassVar[str] = "adaptive"
    relaxation: ClassVar[float] = 0.0

    @classmethod
    def of(cls, settings: WeightSettings) -> Self:
        """Makes it with the settings' stretch."""
        return cls(settings.stretch)

    def fit(self, downstream: Rows, pull: Tensor, push: Tensor) -> Self:
        """Returns the cost with the direction that `learn_direction` finds; one that has a direction keeps it."""
        if self.direction is not None:
            return self
        return replace(self, direction=learn_direction(downstream, pull, push))

    def between(self, rows: Rows, reference: Tensor) -> CosineCost:
        """Returns the cosine distance in the stretched space, ``[k, m]``.

        Raises:
            ConfigError: The cost is not fitted.
            DataError: A row is zero or not finite.
        """
        return CosineCost(StretchedRows(rows, self), self.stretched(reference))

    def stretched(self, z: Tensor) -> Tensor:
        """Returns representations ``[k, d]``, stretched; their length means nothing.

        Raises:
            ConfigError: The cost is not fitted.
            DataError: A row is zero or not finite.
        """
        if self.direction is None:
            raise ConfigError("the adaptive cost has no direction yet; call fit first")
        unit = normalize_rows(z)
        direction = self.direction.to(unit)
        return unit + self.stretch * (unit @ direction)[:, None] * direction

    def state(self) -> dict[str, float | Tensor]:
        """Returns the stretch and, once fitted, the direction."""
        return {"stretch": self.stretch} | ({} if self.direction is None else {"direction": self.direction})

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Makes it of its saved state."""
        return cls(float(state["stretch"]), state["direction"])


COSTS: dict[str, type[GroundCost]] = {"adaptive": Adaptive, "cosine": Cosine}
"""Ground costs by name: sotune's, which learns from the data, and the paper's."""


def cost_of(settings: WeightSettings) -> GroundCost:
    """Returns the ground cost that some settings name, not fitted yet.

    >>> cost_of(WeightSettings(stretch=4))
    Adaptive(stretch=4.0, direction=None)
    """
    return COSTS[settings.cost].of(settings)


def relaxation_of(settings: WeightSettings, cost: GroundCost) -> float:
    """Returns how far the references' columns are relaxed: as the settings say, or as suits the cost.

    >>> relaxation_of(WeightSettings(), Cosine()), relaxation_of(WeightSettings(reference_relaxation=0.3), Cosine())
    (inf, 0.3)
    """
    return cost.relaxation if settings.reference_relaxation is None else settings.reference_relaxation


class StretchedRows(RowView):
    """Rows that are stretched when they are read."""

    def __init__(self, rows: Rows, cost: Adaptive) -> None:
        super().__init__(rows)
        self._cost = cost

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows, stretched."""
        return self._cost.stretched(self._rows[rows])


def learn_direction(downstream: Rows, pull: Tensor, push: Tensor) -> Tensor:
    """Learns along which direction to stretch, ``[d]``, unit length.

    Args:
        downstream: Representations of the rows to weigh, ``[n, d]``; of many, a sample is read.
        pull: Representations of the trusted rows and of the safe reference, ``[m_pull, d]``.
        push: Representations of the harmful rows, ``[m_push, d]``.

    Raises:
        DataError: A row is zero or not finite.
        SotuneError: A fit diverged.
    """
    rows = normalize_rows(sample_rows(downstream, _MAX_ROWS), name="rows")
    safe, harmful = (normalize_rows(z, name="columns") for z in (pull, push))
    probe = fit_balanced(safe, harmful, inverse_regularization=PROBE_REGULARIZATION)
    near_references = train_on_sure_rows(rows, safe, harmful, probe)
    near_data = train_softly(rows, safe, harmful, probe)
    return _unit(_unit(near_references.direction) + _DATA_PART * _unit(near_data.direction))


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

    >>> round(float(soft_labels(torch.randn(100)).mean()), 4)
    0.03

    Args:
        scores: Larger is more harmful, ``[n]``.
    """
    spread = float(scores.double().std()) if len(scores) > 1 else 0.0
    scaled = scores.double() * (_SOFT_SPREAD / max(spread, 1e-12))
    low, high = float(scaled.min()) - 50, float(scaled.max()) + 50
    for _ in range(60):
        middle = (low + high) / 2
        too_many = float(torch.sigmoid(scaled - middle).mean()) > _SOFT_HARMFUL
        low, high = (middle, high) if too_many else (low, middle)
    return torch.sigmoid(scaled - (low + high) / 2)


def _unit(direction: Tensor) -> Tensor:
    """Returns a direction of length 1; zero stays zero, where no row differs from another."""
    return direction / max(float(direction.norm()), math.ulp(0.0))


def sample_rows(downstream: Rows, most: int) -> Tensor:
    """Returns all rows, or a random sample of many, ``[at most `most`, d]``, in input order; the same one each time."""
    n = downstream.shape[0]
    if n <= most:
        return downstream[:]
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    return downstream[torch.randperm(n, generator=generator)[:most].sort().values]
