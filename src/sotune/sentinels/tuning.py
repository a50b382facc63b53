"""Choosing settings by sentinels: held-out harmful rows tell how well a setting separates them from the data.

No label of the downstream rows is needed. With a share p of harm in them, the AUROC of harmful sentinels against all
downstream rows is ``(1 − p)·AUROC + p/2`` where AUROC is that against the safe ones: the same order of settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from sotune.transport import Rows
from sotune.weights import Scorer, SolverSettings, learn_weights
from sotune.weights.ground_cost import FACTOR, Stretch, learn_stretch
from sotune.weights.separation import outranked

_MAX_ROWS = 4_000  # of the downstream rows that settings are tried on; the sentinels' number limits the accuracy
_SAMPLE_SEED = 0
_MUST_GAIN = 2.0  # standard errors


@dataclass(frozen=True)
class Choice:
    """One point of the grid.

    Attributes:
        epsilon: Entropic strength, in units of cost.
        push_strength: The paper's λ.
        reference_relaxation: Penalty on unequal use of reference rows; infinite demands equal use.
        stretch: Factor of the stretch; 0 leaves the space as it is.
    """

    epsilon: float
    push_strength: float
    reference_relaxation: float
    stretch: float

    def applied_to(self, settings: SolverSettings) -> SolverSettings:
        """Returns solver settings with this point's values; the stretch is not among them."""
        values = asdict(self)
        del values["stretch"]
        return replace(settings, **values)


@dataclass(frozen=True)
class Grid:
    """The values that are tried, each with every other."""

    epsilon: Sequence[float]
    push_strength: Sequence[float]
    reference_relaxation: Sequence[float]
    stretch: Sequence[float]

    def choices(self) -> list[Choice]:
        """Returns all points."""
        return [
            Choice(*values)
            for values in itertools.product(self.epsilon, self.push_strength, self.reference_relaxation, self.stretch)
        ]


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
    """One candidate at one point.

    Attributes:
        candidate: Name of the representation.
        choice: The point.
        auroc: Probability that a sentinel weighs less than a downstream row; ties count one half.
    """

    candidate: str
    choice: Choice
    auroc: float


@dataclass(frozen=True)
class Tuned:
    """What the tuning fold chose.

    Attributes:
        chosen: The candidate and point that are used.
        best: Those with the largest AUROC; ``chosen`` differs where they gain too little over the default.
        default: The point that was the default, at the first candidate.
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


def tune_settings(
    candidates: Mapping[str, Representations], *, settings: SolverSettings, cost: str, grid: Grid, default: Choice
) -> Tuned:
    """Tries all points of a grid, and chooses one by the tuning sentinels.

    A point is tried by the ranking of its first gradient, which costs one transport for all push strengths. The
    default stays unless the best gains more than two standard errors over it, estimated over the sentinels.

    Args:
        candidates: Name to representations; the first one's are the default.
        settings: How weights are solved, apart from what the grid varies.
        cost: See `learn_weights`.
        grid: What is tried; ``stretch`` is ignored unless the cost is ``adaptive``.
        default: The point that stays where nothing is better. It is tried too.

    Raises:
        SotuneError: A fit diverged, or representations are not finite.
    """
    choices = list(dict.fromkeys([default, *grid.choices()]))
    placements: dict[tuple[str, Choice], Tensor] = {}
    for name, candidate in candidates.items():
        for choice, placement in _try_all(candidate, choices, settings, cost):
            placements[name, choice] = placement
    tried = {key: Tried(*key, float(placement.mean())) for key, placement in placements.items()}
    default_key = (next(iter(candidates)), default)
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


def default_choice(settings: SolverSettings, cost: str) -> Choice:
    """Returns the point that some settings stand for."""
    return Choice(
        settings.epsilon,
        settings.push_strength,
        settings.reference_relaxation,
        FACTOR if cost == "adaptive" else 0.0,
    )


def sample_rows(downstream: Rows, most: int = _MAX_ROWS) -> Tensor:
    """Returns all rows, or a random sample of many, ``[at most `most`, d]``, in input order."""
    n = downstream.shape[0]
    if n <= most:
        return downstream[:]
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    return downstream[torch.randperm(n, generator=generator)[:most].sort().values]


def _try_all(
    candidate: Representations, choices: Sequence[Choice], settings: SolverSettings, cost: str
) -> Iterator[tuple[Choice, Tensor]]:
    rows = sample_rows(candidate.downstream)
    stretch = None
    if cost == "adaptive":
        stretch = learn_stretch(rows, candidate.safe_anchor, candidate.harmful_reference)
    transports = dict.fromkeys(replace(choice, push_strength=0.5) for choice in choices)
    for transport in transports:
        of_rows, of_sentinels = _potentials(candidate, rows, transport, settings, cost, stretch)
        for choice in choices:
            if replace(choice, push_strength=0.5) == transport:
                push = choice.push_strength
                scores = [push * side.push - (1 - push) * side.pull for side in (of_sentinels, of_rows)]
                yield choice, outranked(*scores)


@dataclass(frozen=True)
class _Potentials:
    pull: Tensor
    push: Tensor


def _potentials(
    candidate: Representations,
    rows: Tensor,
    choice: Choice,
    settings: SolverSettings,
    cost: str,
    stretch: Stretch | None,
) -> tuple[_Potentials, _Potentials]:
    """Returns the potentials at uniform weights, of the rows and of the sentinels."""
    one_step = replace(choice.applied_to(settings), solver="one_step", max_memory=None)
    references = (candidate.safe_anchor, candidate.harmful_reference)
    learned = learn_weights(
        rows,
        *references,
        settings=one_step,
        cost=cost,
        stretch=None if stretch is None else replace(stretch, factor=choice.stretch),
    )
    scores = Scorer.from_learned(learned, settings=one_step, references=references).score(candidate.sentinels)
    return (
        _Potentials(learned.pull_potential, learned.push_potential),
        _Potentials(scores.pull_potential, scores.push_potential),
    )
