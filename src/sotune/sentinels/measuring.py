"""Weights with sentinels: settings chosen by one fold, weights solved, another fold scored that nothing has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sotune.errors import ConfigError
from sotune.sentinels.folds import Folds
from sotune.sentinels.tuning import MOST_ROWS, Grid, Representations, Tuned, tune_settings
from sotune.settings import WeightSettings
from sotune.transport import ALL_ROWS, Rows, Shards
from sotune.weights import LearnedWeights, ReferenceSet, Scorer, learn_weights, pull_sets, rows_of
from sotune.weights.ground_cost import sample_rows
from sotune.weights.separation import outranked
from sotune.weights.solution import OnStep
from sotune.weights.streaming import OnPass

_SAFE_FOLDS = 5


@dataclass(frozen=True)
class Sentinels:
    """What rows that were kept back say of some weights.

    Attributes:
        folds: Which harmful rows were for what.
        harmful_scores: ``log(n·w)`` of each measuring sentinel, ``[k]``, in the order of ``Folds.measuring``.
        tuning_outranked: For each tuning sentinel the share of the downstream rows that weigh more.
        safe_outranked: For each anchor row, weighed by an anchor without it, the share of the downstream rows that
            weigh more, ``[m]``.
        safe_tuning_outranked: For each row of the safe reference's tuning fold the same as of the harmful one's; empty
            where there is none, or where the method's first fit has seen it.
        safe_scores: ``log(n·w)`` of each row of the safe reference that measures, in the order of its fold; ``None``
            where there is none.
        tuned: What the tuning fold chose; ``None`` for a method that it chooses nothing for.
    """

    folds: Folds
    harmful_scores: Tensor
    tuning_outranked: Sequence[float]
    safe_outranked: Tensor
    safe_scores: Tensor | None = None
    safe_tuning_outranked: Sequence[float] = ()
    tuned: Tuned | None = None


@dataclass(frozen=True)
class Fitted:
    """Weights, and the function of the representation that they are.

    Attributes:
        weights: Of the downstream rows, ``[n]``, ≥ 0, of any scale.
        weigh: From representations ``[k, d]`` of any rows to their weights, on the same scale.
    """

    weights: Tensor
    weigh: Callable[[Tensor], Tensor]


Fit = Callable[[Rows, Tensor, Tensor], Fitted]
"""From downstream rows, safe anchor and harmful reference to weights."""


@dataclass(frozen=True)
class FittedWithSentinels:
    """Weights of any method, and what sentinels say of them."""

    fitted: Fitted
    sentinels: Sentinels


@dataclass(frozen=True)
class LearnedWithSentinels:
    """Push-pull weights, and what sentinels say of them.

    Attributes:
        learned: The weights of the downstream rows.
        settings: How they were solved, with what the tuning fold chose.
        harmful_reference: The rows that the weights were solved with: the reference fold and the tuning fold.
        sentinels: What was kept back.
    """

    learned: LearnedWeights
    settings: WeightSettings
    harmful_reference: Tensor
    sentinels: Sentinels

    @property
    def row_scores(self) -> Tensor:
        """``log(n·w)`` of each downstream row, ``[n]``, float64: 0 is the mean weight."""
        return log_relative(self.learned.weights)


def fit_with_sentinels(
    fit: Fit,
    downstream: Rows,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    folds: Folds,
    *,
    safe_reference: Tensor | None = None,
) -> FittedWithSentinels:
    """Fits any method's weights with the reference and the tuning fold, and scores the measuring fold.

    >>> def fit(rows, safe, harmful):
    ...     weigh = lambda z: torch.sigmoid(z @ (safe.mean(0) - harmful.mean(0)))
    ...     return Fitted(weigh(rows), weigh)
    >>> safe, harmful = torch.eye(4)[:1].repeat(40, 1), torch.eye(4)[1:2].repeat(90, 1)
    >>> folds = Folds(tuple(range(30)), tuple(range(30, 60)), tuple(range(60, 90)), ())
    >>> found = fit_with_sentinels(fit, safe[:30], safe[30:], harmful, folds)
    >>> bool(found.sentinels.harmful_scores.max() < 0)
    True

    Args:
        fit: Fits them.
        downstream: Rows to weigh, ``[n, d]``.
        safe_anchor: Trusted rows, ``[m_safe, d]``.
        harmful_reference: All harmful rows, ``[m_harmful, d]``.
        folds: Which of them are for what.
        safe_reference: All rows of the safe reference, some of which measure; what fits knows those that may be seen.

    Raises:
        ConfigError: A fold is empty.
    """
    _check_folds(folds)
    sample = sample_rows(downstream, MOST_ROWS)
    first = fit(sample, safe_anchor, harmful_reference[list(folds.reference)])
    places = outranked(first.weigh(harmful_reference[list(folds.tuning)]), first.weights)
    solved = harmful_reference[list(folds.solved)]
    fitted, safe = fit(downstream, safe_anchor, solved), _measuring(safe_reference, folds)
    sentinels = Sentinels(
        folds=folds,
        harmful_scores=_log_relative_to(fitted, harmful_reference[list(folds.measuring)]),
        tuning_outranked=tuple(places.tolist()),
        safe_outranked=_score_safe_rows(fit, downstream, safe_anchor, solved),
        safe_scores=None if safe is None else _log_relative_to(fitted, safe),
    )
    return FittedWithSentinels(fitted, sentinels)


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
    safe_reference: Tensor | None = None,
    grid: Grid = MappingProxyType({}),
    shards: Shards = ALL_ROWS,
    on_step: OnStep | None = None,
    on_pass: OnPass | None = None,
) -> LearnedWithSentinels:
    """Chooses settings by the tuning fold, solves with it and the reference fold, and scores the measuring fold.

    The measuring fold is read last, when everything else is settled: its rows are then exchangeable with any other
    harmful row of their kind that the run has not seen, which is what makes a bound on their pass rate hold.

    >>> _ = torch.manual_seed(0)
    >>> safe, harmful = torch.randn(60, 16) + torch.eye(16)[0] * 4, torch.randn(90, 16) + torch.eye(16)[1] * 4
    >>> folds = Folds(tuple(range(30)), tuple(range(30, 60)), tuple(range(60, 90)), ())
    >>> guarded = weigh_with_sentinels(safe[:40], safe[40:], harmful, folds, WeightSettings())
    >>> bool(guarded.sentinels.harmful_scores.max() < guarded.row_scores.median())
    True

    Args:
        downstream: Rows to weigh, ``[n, d]``.
        safe_anchor: Trusted rows, ``[m_safe, d]``.
        harmful_reference: All harmful rows, ``[m_harmful, d]``.
        folds: Which of them are for what.
        settings: How to solve; stays where nothing of the grid is better.
        safe_reference: All rows of the safe reference, ``[m, d]``; ``None`` where there is none.
        grid: What is tried; by default nothing is chosen.
        shards: See `learn_weights`.
        on_step: See `learn_weights`.
        on_pass: See `learn_weights`.

    Raises:
        ConfigError: A fold is empty.
    """
    _check_folds(folds)
    solved, measured = harmful_reference[list(folds.solved)], _measuring(safe_reference, folds)
    pull = pull_sets(safe_anchor, solved_rows(safe_reference, folds.safe), settings)
    tried_on = _to_try(downstream, safe_anchor, harmful_reference, safe_reference, folds, settings)
    tuned = tune_settings(tried_on, settings, grid=grid)
    chosen = tuned.chosen.settings
    learned = learn_weights(downstream, pull, solved, chosen, shards=shards, on_step=on_step, on_pass=on_pass)
    scorer = Scorer.from_learned(learned, settings=chosen, references=(*rows_of(pull), solved))
    sentinels = Sentinels(
        folds=folds,
        harmful_scores=log_relative_of(scorer, harmful_reference[list(folds.measuring)]),
        tuning_outranked=tuned.outranked,
        safe_outranked=_score_safe_rows(_fitting(chosen, pull[1:]), downstream, safe_anchor, solved),
        safe_scores=None if measured is None else log_relative_of(scorer, measured),
        safe_tuning_outranked=tuned.safe_outranked,
        tuned=tuned,
    )
    return LearnedWithSentinels(learned=learned, settings=chosen, harmful_reference=solved, sentinels=sentinels)


def solved_rows(rows: Tensor | None, folds: Folds | None) -> Tensor | None:
    """Returns the rows of a reference that weights may look at: all of them where none are kept back.

    >>> solved_rows(torch.arange(3), Folds((0,), (), (1,), ()))
    tensor([0])
    """
    return rows if rows is None or folds is None else rows[list(folds.solved)]


def _measuring(safe_reference: Tensor | None, folds: Folds) -> Tensor | None:
    """Returns the rows of the safe reference that measure; ``None`` where there are none."""
    if safe_reference is None or folds.safe is None:
        return None
    return safe_reference[list(folds.safe.measuring)]


def _to_try(
    downstream: Rows,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    safe_reference: Tensor | None,
    folds: Folds,
    settings: WeightSettings,
) -> Representations:
    """Returns what settings are tried on: the reference folds, and the tuning folds to ask."""
    first, safe_tuning = solved_rows(safe_reference, folds.safe), None
    if safe_reference is not None and folds.safe is not None and folds.safe.reference:
        first, safe_tuning = (safe_reference[list(of)] for of in (folds.safe.reference, folds.safe.tuning))
    harmful, tuning = (harmful_reference[list(of)] for of in (folds.reference, folds.tuning))
    return Representations(downstream, pull_sets(safe_anchor, first, settings), harmful, tuning, safe_tuning)


def _fitting(settings: WeightSettings, others: Sequence[ReferenceSet]) -> Fit:
    """Returns what fits push-pull weights under some settings, with what pulls besides the anchor."""

    def fit(rows: Rows, safe: Tensor, harmful: Tensor) -> Fitted:
        pull = (ReferenceSet(safe), *others)
        found = learn_weights(rows, pull, harmful, settings)
        weigh = Scorer.from_learned(found, settings=settings, references=(*rows_of(pull), harmful))
        return Fitted(found.weights, lambda z: weigh.score(z).weights)

    return fit


def log_relative_of(scorer: Scorer, representations: Tensor) -> Tensor:
    """Returns ``log(n·w)`` of unseen rows, ``[k]``, float64, on the scale of the run."""
    return (scorer.score(representations).weights.double() * scorer.n).log()


def _log_relative_to(fitted: Fitted, representations: Tensor) -> Tensor:
    """Returns the same of any method's weights."""
    return (fitted.weigh(representations).double() / fitted.weights.double().mean()).log()


def _check_folds(folds: Folds) -> None:
    """Raises a ConfigError where a fold is empty."""
    if not (folds.reference and folds.tuning and folds.measuring):
        raise ConfigError(
            f"the harmful reference has too few prompts for three folds: they have {len(folds.reference)}, "
            f"{len(folds.tuning)} and {len(folds.measuring)} rows; give a larger one, or weigh without sentinels"
        )


def _score_safe_rows(fit: Fit, downstream: Rows, safe_anchor: Tensor, harmful_reference: Tensor) -> Tensor:
    """Weighs each part of the anchor by the rest; a small anchor has no rows to spare for folds of its own."""
    m, rows = len(safe_anchor), sample_rows(downstream, MOST_ROWS)
    place = torch.full((m,), float("nan"), dtype=torch.float64)
    fold = torch.arange(m) % min(_SAFE_FOLDS, m)
    for held_out in range(int(fold.max()) + 1 if m > 1 else 0):
        fitted = fit(rows, safe_anchor[fold != held_out], harmful_reference)
        scores = fitted.weigh(safe_anchor[fold == held_out])
        place[fold == held_out] = outranked(scores, fitted.weights).cpu()
    return place[~place.isnan()]
