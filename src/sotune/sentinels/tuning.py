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
from sotune.weights import GroundCost, References, Scorer, cost_of, fit_cost, learn_weights, relaxation_of, rows_of
from sotune.weights.ground_cost import sample_rows
from sotune.weights.separation import outranked

MOST_ROWS = 4_000  # of the downstream rows that settings are tried on; the sentinels' number limits the accuracy
_MUST_GAIN = 2.0  # standard errors


Grid = Mapping[str, Sequence[float]]
"""Settings by name with the values that are tried, each with every other."""


@dataclass(frozen=True)
class Representations:
    """The rows that settings are tried on, by their representations.

    Attributes:
        downstream: The rows to weigh, ``[n, d]``.
        pull: The safe anchor, ``[m_safe, d]``, or it and the safe reference.
        harmful_reference: The reference fold, ``[m_harmful, d]``.
        sentinels: The tuning fold, ``[k, d]``.
        safe_sentinels: That of the safe reference, which chooses nothing here, ``[l, d]``.
    """

    downstream: Rows
    pull: References
    harmful_reference: Tensor
    sentinels: Tensor
    safe_sentinels: Tensor | None = None


@dataclass(frozen=True)
class Tried:
    """Some settings, and how well they tell sentinels from the rows.

    Attributes:
        settings: How the weights are solved.
        auroc: Probability that a sentinel weighs less than a downstream row; ties count one half.
    """

    settings: WeightSettings
    auroc: float


@dataclass(frozen=True)
class Tuned:
    """What the tuning fold chose.

    Attributes:
        chosen: The settings that are used.
        best: Those with the largest AUROC; ``chosen`` differs where they gain too little over the default.
        default: The settings that were given.
        gain_error: Standard error of the gain of the best over the default.
        tried: All of them.
        outranked: For each sentinel the share of the downstream rows that weigh more, as chosen.
        safe_outranked: The same of the safe sentinels.
    """

    chosen: Tried
    best: Tried
    default: Tried
    gain_error: float
    tried: tuple[Tried, ...]
    outranked: tuple[float, ...]
    safe_outranked: tuple[float, ...] = ()

    @property
    def n_sentinels(self) -> int:
        """How many sentinels chose."""
        return len(self.outranked)


def tune_settings(rows: Representations, settings: WeightSettings, *, grid: Grid) -> Tuned:
    """Tries all points of a grid, and chooses one by the tuning sentinels.

    A point is tried by the ranking of its first gradient, which costs one transport for all push strengths. The
    settings given stay unless the best gain more than two standard errors over them, estimated over the sentinels.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> safe, harmful = torch.randn(60, 16) + torch.eye(16)[0] * 4, torch.randn(60, 16) + torch.eye(16)[1] * 4
    >>> rows = Representations(safe[:40], safe[40:], harmful[:30], harmful[30:])
    >>> tuned = tune_settings(rows, WeightSettings(), grid={"epsilon": (0.1, 0.4)})
    >>> [(one.settings.epsilon, round(one.auroc, 2)) for one in tuned.tried]
    [(0.1, 1.0), (0.4, 1.0)]

    Args:
        rows: What the settings are tried on.
        settings: What stays where nothing is better; tried too. The grid varies some of them.
        grid: What is tried; a point that means the same as another is tried once.

    Raises:
        SotuneError: A fit diverged, or representations are not finite.
    """
    k = len(rows.sentinels)
    all_placed = dict(_try_all(rows, _choices(settings, grid)))
    placements = {choice: placed[:k] for choice, placed in all_placed.items()}
    tried = {choice: Tried(choice, float(placement.mean())) for choice, placement in placements.items()}
    best = max(tried, key=lambda choice: tried[choice].auroc)
    gains = placements[best] - placements[settings]
    error = float(gains.std()) / len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    chosen = best if float(gains.mean()) > _MUST_GAIN * error else settings
    return Tuned(
        chosen=tried[chosen],
        best=tried[best],
        default=tried[settings],
        gain_error=error,
        tried=tuple(tried.values()),
        outranked=tuple(placements[chosen].tolist()),
        safe_outranked=tuple(all_placed[chosen][k:].tolist()),
    )


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


def _try_all(given: Representations, choices: Sequence[WeightSettings]) -> Iterator[tuple[WeightSettings, Tensor]]:
    rows, references = sample_rows(given.downstream, MOST_ROWS), (given.pull, given.harmful_reference)
    # The push strength only mixes the potentials of the first gradient: points that differ in it share a transport.
    transports: dict[Hashable, list[WeightSettings]] = {}
    for choice in choices:
        transports.setdefault(_meaning(choice.replace(push_strength=0.5)), []).append(choice)
    seen = (*rows_of(given.pull), given.harmful_reference)
    sentinels = torch.cat([z for z in (given.sentinels, given.safe_sentinels) if z is not None])
    costs = {cost: fit_cost(cost, rows, *references) for cost in dict.fromkeys(map(cost_of, choices))}
    for sharing in transports.values():
        first_gradient = sharing[0].replace(push_strength=0.5, solver="one_step", max_memory=None)
        of_rows = learn_weights(rows, *references, first_gradient, cost=costs[cost_of(first_gradient)])
        scorer = Scorer.from_learned(of_rows, settings=first_gradient, references=seen)
        of_sentinels = scorer.score(sentinels)
        for choice in sharing:
            push = choice.push_strength
            scores = [push * one.push_potential - (1 - push) * one.pull_potential for one in (of_sentinels, of_rows)]
            yield choice, outranked(*scores)
