r"""Ground costs: what it costs to move a row's mass to a reference row.

*Cosine* is the paper's. *Adaptive* standardizes a representation's numbers first, of which a few would rule the cosine
in the states of a causal LM, and joins each row by coordinates that are learned from the references and from the
downstream rows themselves, without any label of theirs. Then it is the cosine distance, as in the paper.

**Without a safe reference** the space is stretched along one direction of *harm*, ``ẑ ↦ ẑ + stretch·(ẑ·v)·v`` with
``ẑ`` of unit length; a coordinate ``√(stretch·(stretch + 2))·(ẑ·v)`` beside ``ẑ`` gives the same products. Of the mean,
which all rows share, only what is longer than the spread is taken away: sentence embeddings have a short one, and are
ranked worse without it. The direction is the sum of two:

- *near the references*: a logistic probe, what pulls against the harmful reference, and three rounds that add the
  surest downstream rows to each side. Right where the harm in the data is like the reference.
- *near the data*: soft self-training. Each round scores the downstream rows, takes the most harmful-looking few percent
  as harmful, softly, and refits with most of the weight on the downstream rows. Finds harm of another kind, since
  harmful rows are alike among themselves.

The second could run away: with no harm in the data it learns what is merely rare. The references' share of the fit and
the first direction hold it; docs/experiments.md shows how far.

**With a safe reference** there are two, each by a contrast of classes that differ in one thing:

- *topic*: the anchor and the downstream rows, all taken as plain, against the harmful reference;
- *answer*: the safe reference against the harmful one, both of risky prompts, by what represents the answer alone.

A row is then far from harm that is far from it in either: a refusal by its answer, a plain row by its topic. One
direction cannot do that: it lets a risky topic outweigh a safe answer. The whole mean is taken away, and a third
coordinate is the same for all rows: cosine distance is then nearly a squared distance.
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

ANSWER_REGULARIZATION = 1.0
"""The same of what tells safe answers from harmful ones: they differ by little, and a weak penalty fits single rows."""

_SURE_ROUNDS, _SURE_SAFE, _SURE_HARMFUL, _SURE_REGULARIZATION = 3, 0.5, 0.03, 1.0
_SOFT_ROUNDS, _SOFT_HARMFUL, _SOFT_SPREAD = 15, 0.03, 2.0
_SOFT_MASS, _REFERENCE_SHARE = 2000.0, 0.3
_DATA_PART = 2.0

_TOPIC_MASS, _TOPIC_ROWS_SHARE = 1000.0, 0.5
_TOPIC_WEIGHT, _ANSWER_WEIGHT = 0.25, 1.0  # of a coordinate, times the stretch
_LEVEL = 2.0  # of the coordinate that is the same for all rows


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

    @property
    def joins(self) -> bool:
        """Whether several sets that pull are one reference, which a row is near if it is near to one of them."""
        ...

    @classmethod
    def of(cls, settings: WeightSettings) -> Self:
        """Makes it as some settings say."""
        ...

    def fit(
        self, downstream: Rows, safe_anchor: Tensor, harmful_reference: Tensor, safe_reference: Tensor | None = None
    ) -> Self:
        """Returns the cost with what it learns from the data, rows of one width; what is fitted stays as it is."""
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
    joins: ClassVar[bool] = False

    @classmethod
    def of(cls, settings: WeightSettings) -> Self:
        """Makes it; it has no settings."""
        return cls()

    def fit(
        self, downstream: Rows, safe_anchor: Tensor, harmful_reference: Tensor, safe_reference: Tensor | None = None
    ) -> Self:
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
class Contrast:
    """What is learned: how to standardize a row, and its coordinates: of harm, or of topic, answer and the common one.

    Attributes:
        center: What is taken away, ``[d]``: the mean of all rows that were seen, or a part of it.
        scale: Their standard deviation, ``[d]``; 1 where they do not differ.
        directions: Of each coordinate, ``[1 or 3, d]``: it is a product with the standardized row, of length 1.
        offsets: What is added, ``[1 or 3]``. For topic and answer 0 is midway between the two classes, harm above it.
    """

    center: Tensor
    scale: Tensor
    directions: Tensor
    offsets: Tensor

    def standardized(self, z: Tensor, *, name: str = "rows") -> Tensor:
        """Returns rows ``[k, d]``, standardized and of length 1; one that is the mean itself stays zero.

        Raises:
            DataError: A row is zero or not finite.
        """
        normalize_rows(z, name=name)  # refuses what no cost can be learned of or measured to
        return _unit_rows((z.to(self.center) - self.center) / self.scale)

    def coordinates(self, unit: Tensor) -> Tensor:
        """Returns the coordinates of standardized rows, ``[k, 1 or 3]``."""
        return unit @ self.directions.T + self.offsets

    def weights(self, stretch: float) -> list[float]:
        """Returns what each coordinate counts."""
        if len(self.offsets) == 1:
            return [math.sqrt(stretch * (stretch + 2))]
        return [stretch * _TOPIC_WEIGHT, stretch * _ANSWER_WEIGHT, _LEVEL]


@dataclass(frozen=True)
class Adaptive:
    """Cosine distance of standardized rows that are joined by what tells harm from safety.

    Attributes:
        stretch: How much the coordinates count; 0: not at all.
        contrast: What is learned; ``None`` before `fit`.
        answer_from: Where in a vector the answer's part begins: 0, all of it; 0.5, its second half.
    """

    stretch: float = WeightSettings.model_fields["stretch"].default
    contrast: Contrast | None = None
    answer_from: float = 0.0

    name: ClassVar[str] = "adaptive"
    relaxation: ClassVar[float] = 0.0
    joins: ClassVar[bool] = True

    @classmethod
    def of(cls, settings: WeightSettings) -> Self:
        """Makes it with the settings' stretch."""
        return cls(settings.stretch, answer_from=settings.answer_from or 0.0)

    def fit(
        self, downstream: Rows, safe_anchor: Tensor, harmful_reference: Tensor, safe_reference: Tensor | None = None
    ) -> Self:
        """Returns the cost with what `learn_contrast` finds."""
        if self.contrast is not None:
            return self
        sets = (downstream, safe_anchor, harmful_reference, safe_reference)
        return replace(self, contrast=learn_contrast(*sets, answer_from=self.answer_from))

    def between(self, rows: Rows, reference: Tensor) -> CosineCost:
        """Returns the cosine distance of joined rows, ``[k, m]``.

        Raises:
            ConfigError: The cost is not fitted.
            DataError: A row is zero or not finite.
        """
        return CosineCost(JoinedRows(rows, self), self.joined(reference))

    @property
    def added(self) -> int:
        """How many numbers a joined row has more than its representation.

        Raises:
            ConfigError: The cost is not fitted.
        """
        return len(self._fitted.offsets)

    def joined(self, z: Tensor) -> Tensor:
        """Returns rows ``[k, d]``, standardized, with their coordinates after them.

        Raises:
            ConfigError: The cost is not fitted.
            DataError: A row is zero or not finite.
        """
        unit = self._fitted.standardized(z)
        weights = unit.new_tensor(self._fitted.weights(self.stretch))
        return torch.cat([unit, weights * self._fitted.coordinates(unit)], dim=1).to(z.dtype)

    @property
    def _fitted(self) -> Contrast:
        if self.contrast is None:
            raise ConfigError("the adaptive cost has learned nothing yet; call fit first")
        return self.contrast

    def state(self) -> dict[str, float | Tensor]:
        """Returns the stretch and, once fitted, what was learned."""
        learned = {} if self.contrast is None else {name: getattr(self.contrast, name) for name in _CONTRAST}
        return {"stretch": self.stretch, **learned}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Makes it of its saved state."""
        return cls(float(state["stretch"]), Contrast(**{name: state[name] for name in _CONTRAST}))


_CONTRAST = tuple(Contrast.__dataclass_fields__)

COSTS: dict[str, type[GroundCost]] = {"adaptive": Adaptive, "cosine": Cosine}
"""Ground costs by name: sotune's, which learns from the data, and the paper's."""


def cost_of(settings: WeightSettings) -> GroundCost:
    """Returns the ground cost that some settings name, not fitted yet.

    >>> cost_of(WeightSettings(stretch=4))
    Adaptive(stretch=4.0, contrast=None, answer_from=0.0)
    """
    return COSTS[settings.cost].of(settings)


def relaxation_of(settings: WeightSettings, cost: GroundCost) -> float:
    """Returns how far the references' columns are relaxed: as the settings say, or as suits the cost.

    >>> relaxation_of(WeightSettings(), Cosine()), relaxation_of(WeightSettings(reference_relaxation=0.3), Cosine())
    (inf, 0.3)
    """
    return cost.relaxation if settings.reference_relaxation is None else settings.reference_relaxation


class JoinedRows(RowView):
    """Rows that are standardized and joined by their coordinates when they are read."""

    def __init__(self, rows: Rows, cost: Adaptive) -> None:
        super().__init__(rows)
        self._cost = cost

    @property
    def shape(self) -> torch.Size:
        """The pair ``(n, width)`` of what is read."""
        n, width = self._rows.shape
        return torch.Size((n, width + self._cost.added))

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns some rows, joined."""
        return self._cost.joined(self._rows[rows])


def learn_contrast(
    downstream: Rows,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    safe_reference: Tensor | None = None,
    *,
    answer_from: float = 0.0,
) -> Contrast:
    """Learns what tells harm from plain rows and, with a safe reference, harmful answers from safe ones.

    Args:
        downstream: Representations of the rows to weigh, ``[n, d]``; of many, a sample is read.
        safe_anchor: Representations of the trusted rows, ``[m_safe, d]``.
        harmful_reference: Representations of the harmful rows, ``[m_harmful, d]``.
        safe_reference: Representations of rows that meet risky prompts safely, ``[m, d]``.
        answer_from: Where in a vector the answer's part begins, in [0, 1).

    Raises:
        DataError: A row is zero or not finite.
        SotuneError: A fit diverged.
    """
    references = [z for z in (safe_anchor, harmful_reference, safe_reference) if z is not None]
    sets = [z.double() for z in (sample_rows(downstream, _MAX_ROWS), *references)]
    center, scale = _spread(torch.cat(sets))
    if safe_reference is None:
        center = _excess(center, scale)
    nothing = center.new_zeros(1, len(center))
    found = Contrast(center, scale, nothing, nothing[:, 0])
    rows, *columns = (found.standardized(z, name="columns" if i else "rows") for i, z in enumerate(sets))
    plain, harmful = columns[:2]
    if safe_reference is None:
        return replace(found, directions=_harm(rows, plain, harmful)[None])
    safe = columns[2]
    answer = _answer(safe, harmful, start=int(answer_from * len(center)))
    scaled = [_scaled(_topic(rows, plain, harmful), plain, harmful), _scaled(answer, safe, harmful)]
    directions, offsets = zip(*scaled, (nothing[0], center.new_tensor(1.0)), strict=True)
    return replace(found, directions=torch.stack(directions), offsets=torch.stack(offsets))


def _excess(center: Tensor, scale: Tensor) -> Tensor:
    """Returns the part of a mean that is longer than the spread about it, ``[d]``."""
    length = float((center / scale).square().mean().sqrt())
    return center * max(0.0, 1 - 1 / max(length, 1.0))


def _harm(rows: Tensor, safe: Tensor, harmful: Tensor) -> Tensor:
    """Returns the direction of harm, ``[d]``, unit length, near the references and near the data."""
    probe = fit_balanced(safe, harmful, inverse_regularization=PROBE_REGULARIZATION)
    near_references = train_on_sure_rows(rows, safe, harmful, probe)
    near_data = train_softly(rows, safe, harmful, probe)
    return _unit(_unit(near_references.direction) + _DATA_PART * _unit(near_data.direction))


def _answer(safe: Tensor, harmful: Tensor, *, start: int) -> Tensor:
    """Returns the direction from safe answers to harmful ones, ``[d]``, by the part that begins at a position."""
    found = fit_balanced(safe[:, start:], harmful[:, start:], inverse_regularization=ANSWER_REGULARIZATION)
    return torch.cat([found.direction.new_zeros(start), found.direction])


def _topic(rows: Tensor, safe: Tensor, harmful: Tensor) -> Tensor:
    """Returns the direction from plain rows to harm, ``[d]``: the anchor and the downstream rows share one side.

    Harmful rows among the downstream ones are few on their side, and too few to turn it.
    """
    masses = (1 - _TOPIC_ROWS_SHARE, _TOPIC_ROWS_SHARE)
    negative = [torch.full((len(z),), mass / len(z)) for z, mass in zip((safe, rows), masses, strict=True)]
    positive = torch.full((len(harmful),), 1 / len(harmful))
    half, z = _TOPIC_MASS / 2, torch.cat([safe, rows, harmful])
    negative_mass = torch.cat([*negative, 0 * positive]).to(z) * half
    positive_mass = torch.cat([*(0 * one for one in negative), positive]).to(z) * half
    return fit_logistic(z, negative_mass, positive_mass).direction


def _scaled(direction: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a direction and an offset for which two classes lie about 0, each with a standard deviation near 1."""
    projected = (first @ direction, second @ direction)
    spread = torch.stack([one.var(correction=0) for one in projected]).mean().sqrt()
    scaled = direction / spread.clamp(min=torch.finfo(spread.dtype).tiny)
    return scaled, -torch.stack([(one @ scaled).mean() for one in (first, second)]).mean()


def _spread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of rows, ``[d]`` each; 1 in place of a deviation that is rounding."""
    center, scale = rows.mean(0), rows.std(0, correction=0)
    return center, torch.where(scale > 1e-6 * (center.abs() + scale.max()), scale, 1.0)


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


def standardize(rows: Tensor) -> Tensor:
    """Returns rows ``[n, d]`` less their mean, over their standard deviation, then of length 1; float64.

    Raises:
        DataError: A row is zero or not finite.
    """
    normalize_rows(rows)
    center, scale = _spread(rows.double())
    return _unit_rows((rows.double() - center) / scale)


def _unit_rows(z: Tensor) -> Tensor:
    length: Tensor = z.norm(dim=1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
    return z / length


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
