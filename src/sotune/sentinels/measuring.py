"""Weights with sentinels: settings chosen by one fold, weights solved, another fold scored that nothing has seen."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.sentinels.folds import Folds
from sotune.sentinels.tuning import Grid, Representations, Tuned, outranked, sample_rows, tune_settings
from sotune.settings import WeightSettings
from sotune.transport import Rows
from sotune.weights import LearnedWeights, Scorer, learn_weights
from sotune.weights.solution import OnStep
from sotune.weights.streaming import OnPass

_SAFE_FOLDS = 5


@dataclass(frozen=True)
class Guarded:
    """Weights, and what sentinels say of them.

    Attributes:
        learned: The weights of the downstream rows.
        settings: How they were solved, with what the tuning fold chose.
        harmful_reference: The rows that the weights were solved with: the reference fold and the tuning fold.
        tuned: What the tuning fold chose.
        harmful_scores: ``log(n·w)`` of each measuring sentinel, ``[k]``, in the order of ``Folds.measuring``.
        safe_outranked: For each anchor row, weighed by an anchor without it, the share of the downstream rows that
            weigh more, ``[m]``.
    """

    learned: LearnedWeights
    settings: WeightSettings
    harmful_reference: Tensor
    tuned: Tuned
    harmful_scores: Tensor
    safe_outranked: Tensor

    @property
    def row_scores(self) -> Tensor:
        """``log(n·w)`` of each downstream row, ``[n]``, float64: 0 is the mean weight."""
        return log_relative(self.learned.weights)


def log_relative(weights: Tensor) -> Tensor:
    """Returns ``log(n·w)`` for weights on the simplex, ``[n]``, float64.

    >>> log_relative(torch.tensor([0.5, 0.25, 0.25])).exp()
    tensor([1.5000, 0.7500, 0.7500], dtype=torch.float64)
    """
    return (weights.double() * weights.shape[0]).log()


def weigh_with_sentinels(
    downstream: Rows,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    folds: Folds,
    settings: WeightSettings,
    *,
    grid: Grid = MappingProxyType({}),
    on_step: OnStep | None = None,
    on_pass: OnPass | None = None,
) -> Guarded:
    """Chooses settings by the tuning fold, solves with it and the reference fold, and scores the measuring fold.

    The measuring fold is read last, when everything else is settled: its rows are then exchangeable with any other
    harmful row of their kind that the run has not seen, which is what makes a bound on their pass rate hold.

    >>> _ = torch.manual_seed(0)
    >>> safe, harmful = torch.randn(60, 16) + torch.eye(16)[0] * 4, torch.randn(90, 16) + torch.eye(16)[1] * 4
    >>> folds = Folds(tuple(range(30)), tuple(range(30, 60)), tuple(range(60, 90)), ())
    >>> guarded = weigh_with_sentinels(safe[:40], safe[40:], harmful, folds, WeightSettings())
    >>> bool(guarded.harmful_scores.max() < guarded.row_scores.median())
    True

    Args:
        downstream: Rows to weigh, ``[n, d]``.
        safe_anchor: Trusted rows, ``[m_safe, d]``.
        harmful_reference: All harmful rows, ``[m_harmful, d]``.
        folds: Which of them are for what.
        settings: How to solve; stays where nothing of the grid is better.
        grid: What is tried; by default nothing is chosen.
        on_step: See `learn_weights`.
        on_pass: See `learn_weights`.

    Raises:
        ConfigError: A fold is empty.
    """
    if not (folds.reference and folds.tuning and folds.measuring):
        raise ConfigError(
            f"the harmful reference has too few prompts for three folds: they have {len(folds.reference)}, "
            f"{len(folds.tuning)} and {len(folds.measuring)} rows; give a larger one, or weigh without sentinels"
        )
    harmful = harmful_reference[list(folds.reference)]
    tuning = harmful_reference[list(folds.tuning)]
    tuned = tune_settings({"default": Representations(downstream, safe_anchor, harmful, tuning)}, settings, grid=grid)
    chosen = tuned.chosen.settings
    solved = harmful_reference[list(folds.solved)]
    learned = learn_weights(downstream, safe_anchor, solved, chosen, on_step=on_step, on_pass=on_pass)
    safe_outranked = _score_safe_rows(chosen, sample_rows(downstream), safe_anchor, solved)
    scorer = Scorer.from_learned(learned, settings=chosen, references=(safe_anchor, solved))
    return Guarded(
        learned=learned,
        settings=chosen,
        harmful_reference=solved,
        tuned=tuned,
        harmful_scores=log_relative_of(scorer, harmful_reference[list(folds.measuring)]),
        safe_outranked=safe_outranked,
    )


def log_relative_of(scorer: Scorer, representations: Tensor) -> Tensor:
    """Returns ``log(n·w)`` of unseen rows, ``[k]``, float64, on the scale of the run."""
    return (scorer.score(representations).weights.double() * scorer.n).log()


def _score_safe_rows(settings: WeightSettings, rows: Tensor, safe_anchor: Tensor, harmful_reference: Tensor) -> Tensor:
    """Weighs each part of the anchor by the rest; a small anchor has no rows to spare for folds of its own."""
    m = len(safe_anchor)
    place = torch.full((m,), float("nan"), dtype=torch.float64)
    fold = torch.arange(m) % min(_SAFE_FOLDS, m)
    for held_out in range(int(fold.max()) + 1 if m > 1 else 0):
        seen = safe_anchor[fold != held_out]
        learned = learn_weights(rows, seen, harmful_reference, settings)
        scorer = Scorer.from_learned(learned, settings=settings, references=(seen, harmful_reference))
        scores = log_relative_of(scorer, safe_anchor[fold == held_out])
        place[fold == held_out] = outranked(scores, log_relative(learned.weights)).cpu()
    return place[~place.isnan()]
