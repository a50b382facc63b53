"""Weights with sentinels: settings chosen by one fold, weights solved, another fold scored that nothing has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.sentinels.folds import Folds
from sotune.sentinels.tuning import Choice, Grid, Representations, Tuned, sample_rows, tune_settings
from sotune.transport import Rows
from sotune.weights import LearnedWeights, Scorer, SolverSettings, learn_weights
from sotune.weights.ground_cost import learn_stretch
from sotune.weights.separation import outranked
from sotune.weights.solution import OnStep
from sotune.weights.streaming import OnPass

_SAFE_FOLDS = 5


@dataclass(frozen=True)
class Guarded:
    """Weights, and what sentinels say of them.

    Attributes:
        learned: The weights of the downstream rows.
        settings: The solver's settings, those chosen among them.
        harmful_reference: The rows that the weights were solved with: the reference fold and the tuning fold.
        tuned: What the tuning fold chose.
        harmful_scores: ``log(n·w)`` of each measuring sentinel, ``[k]``, in the order of ``Folds.measuring``.
        safe_outranked: For each anchor row, weighed by an anchor without it, the share of the downstream rows that
            weigh more, ``[m]``.
    """

    learned: LearnedWeights
    settings: SolverSettings
    harmful_reference: Tensor
    tuned: Tuned
    harmful_scores: Tensor
    safe_outranked: Tensor

    @property
    def row_scores(self) -> Tensor:
        """``log(n·w)`` of each downstream row, ``[n]``, float64: 0 is the mean weight."""
        return log_relative(self.learned.weights)


def log_relative(weights: Tensor) -> Tensor:
    """Returns ``log(n·w)`` for weights on the simplex, ``[n]``, float64."""
    return (weights.double() * weights.shape[0]).log()


def weigh_with_sentinels(
    downstream: Rows,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    folds: Folds,
    *,
    settings: SolverSettings,
    cost: str,
    grid: Grid,
    default: Choice,
    on_step: OnStep | None = None,
    on_pass: OnPass | None = None,
) -> Guarded:
    """Chooses settings by the tuning fold, solves with it and the reference fold, and scores the measuring fold.

    The measuring fold is read last, when everything else is settled: its rows are then exchangeable with any other
    harmful row of their kind that the run has not seen, which is what makes a bound on their pass rate hold.

    Args:
        downstream: Rows to weigh, ``[n, d]``.
        safe_anchor: Trusted rows, ``[m_safe, d]``.
        harmful_reference: All harmful rows, ``[m_harmful, d]``.
        folds: Which of them are for what.
        settings: How to solve, apart from what is chosen.
        cost: See `learn_weights`.
        grid: What is tried; of one point where nothing is to be chosen.
        default: The point that stays where nothing is better.
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
    tuned = tune_settings(
        {"default": Representations(downstream, safe_anchor, harmful, tuning)},
        settings=settings,
        cost=cost,
        grid=grid,
        default=default,
    )
    solved = harmful_reference[list(folds.solved)]
    frozen = _Frozen(tuned.chosen.choice.applied_to(settings), cost, tuned.chosen.choice.stretch)
    learned = frozen.learn(downstream, safe_anchor, solved, on_step=on_step, on_pass=on_pass)
    safe_outranked = _score_safe_rows(frozen, sample_rows(downstream), safe_anchor, solved)
    scorer = frozen.scorer(learned, safe_anchor, solved)
    return Guarded(
        learned=learned,
        settings=frozen.settings,
        harmful_reference=solved,
        tuned=tuned,
        harmful_scores=log_relative_of(scorer, harmful_reference[list(folds.measuring)]),
        safe_outranked=safe_outranked,
    )


def log_relative_of(scorer: Scorer, representations: Tensor) -> Tensor:
    """Returns ``log(n·w)`` of unseen rows, ``[k]``, float64, on the scale of the run."""
    return (scorer.score(representations).weights.double() * scorer.n).log()


@dataclass(frozen=True)
class _Frozen:
    settings: SolverSettings
    cost: str
    factor: float

    def learn(
        self,
        downstream: Rows,
        safe_anchor: Tensor,
        harmful_reference: Tensor,
        *,
        on_step: OnStep | None = None,
        on_pass: OnPass | None = None,
    ) -> LearnedWeights:
        stretch = None
        if self.cost == "adaptive":
            stretch = replace(learn_stretch(downstream, safe_anchor, harmful_reference), factor=self.factor)
        return learn_weights(
            downstream,
            safe_anchor,
            harmful_reference,
            settings=self.settings,
            cost=self.cost,
            stretch=stretch,
            on_step=on_step,
            on_pass=on_pass,
        )

    def scorer(self, learned: LearnedWeights, *references: Tensor) -> Scorer:
        return Scorer.from_learned(learned, settings=self.settings, references=references)


def _score_safe_rows(frozen: _Frozen, rows: Tensor, safe_anchor: Tensor, harmful_reference: Tensor) -> Tensor:
    """Weighs each part of the anchor by the rest; a small anchor has no rows to spare for folds of its own."""
    m = len(safe_anchor)
    place = torch.full((m,), float("nan"), dtype=torch.float64)
    fold = torch.arange(m) % min(_SAFE_FOLDS, m)
    for held_out in range(int(fold.max()) + 1 if m > 1 else 0):
        seen = safe_anchor[fold != held_out]
        learned = frozen.learn(rows, seen, harmful_reference)
        scores = log_relative_of(frozen.scorer(learned, seen, harmful_reference), safe_anchor[fold == held_out])
        place[fold == held_out] = outranked(scores, log_relative(learned.weights)).cpu()
    return place[~place.isnan()]
