"""Choosing settings by sentinels: held-out harmful rows tell how well a setting separates them from the data.

No label of the downstream rows is needed. With a share p of harm in them, the AUROC of harmful sentinels against all
downstream rows is ``(1 − p)·AUROC + p/2`` where AUROC is that against the safe ones: the same order of settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import Rows
from sotune.weights import GroundCost, Scorer, cost_of, learn_weights, relaxation_of
from sotune.weights.separation import outranked

_MAX_ROWS = 4_000  # of the downstream rows that settings are tried on; the sentinels' number limits the accuracy
_SAMPLE_SEED = 0
_MUST_GAIN = 2.0  # standard errors


Grid = Mapping[str, Sequence[float]]
"""Settings by name with the values that are tried, each with every other."""


@dataclass(frozen=True)
class Representations:
    """What one candidate representation makes of the rows; a run has one, unless several are tried.

    Attributes:
        downstream: The rows to weigh, ``[n, d]``.
        safe_anchor: ``[m_safe, d]``.
        harmful_reference: The reference fold, ``[m_harmful, d]``.
        sentinels: The tuning fold, ``[k, d]``.
    """

    downstream: Rows
    safe_anchor: Tensor
    harmful_reference: Tensor
    sentinels: Tensor


@dataclass(frozen=True)
class Tried:
    """One candidate with some settings.

    Attributes:
        candidate: Name of the representation.
        settings: How the weights are solved.
        auroc: Probability that a sentinel weighs less than a downstream row; ties count one half.
    """

    candidate: str
    settings: WeightSettings
    auroc: float


@dataclass(frozen=True)
class Tuned:
    """What the tuning fold chose.

    Attributes:
        chosen: The candidate and settings that are used.
        best: Those with the largest AUROC; ``chosen`` differs where they gain too little over the default.
        default: The settings that were given, with the first candidate.
        gain_error: Standard error of the gain of the best over the default.
        tried: All of them.
        outranked: For each sentinel the share of the downstream rows that weigh more, as chosen.
    """

    chosen: Tried
    best: Tried
    default: Tried
    gain_error: float
    tried: tuple[Tried, ...]
    outranked: tuple[float, ...]

    @property
    def n_sentinels(self) -> int:
        """How many sentinels chose."""
        return len(self.outranked)


def tune_settings(candidates: Mapping[str, Representations], settings: WeightSettings, *, grid: Grid) -> Tuned:
    """Tries all points of a grid, and chooses one by the tuning sentinels.

    A point is tried by the ranking of its first gradient, which costs one transport for all push strengths. The
    settings given stay unless the best gain more than two standard errors over them, estimated over the sentinels.

    >>> _ = torch.manual_seed(0)
    >>> safe, harmful = torch.randn(60, 16) + torch.eye(16)[0] * 4, torch.randn(60, 16) + torch.eye(16)[1] * 4
    >>> candidates = {"plain": Representations(safe[:40], safe[40:], harmful[:30], harmful[30:])}
    >>> tuned = tune_settings(candidates, WeightSettings(), grid={"epsilon": (0.1, 0.4)})
    >>> [(one.settings.epsilon, round(one.auroc, 2)) for one in tuned.tried]
    [(0.1, 1.0), (0.4, 1.0)]

    Args:
        candidates: Name to representations; the first one's are the default.
        settings: What stays where nothing is better; tried too. The grid varies some of them.
        grid: What is tried; a point that means the same as another is tried once.

    Raises:
        SotuneError: A fit diverged, or representations are not finite.
    """
    choices = _choices(settings, grid)
    placements: dict[tuple[str, WeightSettings], Tensor] = {}
    for name, candidate in candidates.items():
        for choice, placement in _try_all(candidate, choices):
            placements[name, choice] = placement
    tried = {key: Tried(*key, float(placement.mean())) for key, placement in placements.items()}
    default_key = (next(iter(candidates)), settings)
    best_key = max(tried, key=lambda key: tried[key].auroc)
    gains = placements[best_key] - placements[default_key]
    error = float(gains.std()) / len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    enough = float(gains.mean()) > _MUST_GAIN * error
    chosen_key = best_key if enough else default_key
    return Tuned(
        chosen=tried[chosen_key],
        best=tried[best_key],
        default=tried[default_key],
        gain_error=error,
        tried=tuple(tried.values()),
        outranked=tuple(placements[chosen_key].tolist()),
    )


def sample_rows(downstream: Rows, most: int = _MAX_ROWS) -> Tensor:
    """Returns all rows, or a random sample of many, ``[at most `most`, d]``, in input order."""
    n = downstream.shape[0]
    if n <= most:
        return downstream[:]
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    return downstream[torch.randperm(n, generator=generator)[:most].sort().values]


def _choices(settings: WeightSettings, grid: Grid) -> list[WeightSettings]:
    """Returns the settings given and then all points of the grid, each that means something else than those before."""
    points = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    choices: dict[Hashable, WeightSettings] = {}
    for choice in (settings, *(settings.replace(**point) for point in points)):
        choices.setdefault(_meaning(choice), choice)
    return list(choices.values())


def _meaning(point: WeightSettings) -> tuple[GroundCost, float, float, float]:
    """Returns what two points share that weigh alike: a cost ignores what is no setting of its own."""
    cost = cost_of(point)
    return cost, point.epsilon, point.push_strength, relaxation_of(point, cost)


def _try_all(candidate: Representations, choices: Sequence[WeightSettings]) -> Iterator[tuple[WeightSettings, Tensor]]:
    rows = sample_rows(candidate.downstream)
    # The push strength only mixes the potentials of the first gradient: points that differ in it share a transport.
    transports: dict[Hashable, list[WeightSettings]] = {}
    for choice in choices:
        transports.setdefault(_meaning(choice.replace(push_strength=0.5)), []).append(choice)
    costs = {
        cost: cost.fit(rows, candidate.safe_anchor, candidate.harmful_reference)
        for cost in dict.fromkeys(map(cost_of, choices))
    }
    for sharing in transports.values():
        first_gradient = sharing[0].replace(push_strength=0.5, solver="one_step", max_memory=None)
        of_rows, of_sentinels = _potentials(candidate, rows, first_gradient, costs[cost_of(first_gradient)])
        for choice in sharing:
            push = choice.push_strength
            scores = [push * side.push - (1 - push) * side.pull for side in (of_sentinels, of_rows)]
            yield choice, outranked(*scores)


@dataclass(frozen=True)
class _Potentials:
    pull: Tensor
    push: Tensor


def _potentials(
    candidate: Representations, rows: Tensor, settings: WeightSettings, cost: GroundCost
) -> tuple[_Potentials, _Potentials]:
    """Returns the potentials of the rows and of the sentinels."""
    references = (candidate.safe_anchor, candidate.harmful_reference)
    learned = learn_weights(rows, *references, settings, cost=cost)
    scores = Scorer.from_learned(learned, settings=settings, references=references).score(candidate.sentinels)
    return (
        _Potentials(learned.pull_potential, learned.push_potential),
        _Potentials(scores.pull_potential, scores.push_potential),
    )
