"""How well representations tell harm from safety, measured on reference rows that the probe has not seen."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from sotune.errors import DataError
from sotune.transport.cost import normalize_rows
from sotune.weights.ground_cost import ANSWER_REGULARIZATION, PROBE_REGULARIZATION, standardize
from sotune.weights.logistic import fit_balanced


def held_out_separation(
    downstream: Tensor,
    safe_anchor: Tensor,
    harmful_reference: Tensor,
    *,
    safe_prompts: Sequence[Hashable],
    harmful_prompts: Sequence[Hashable],
    n_folds: int,
    generator: torch.Generator,
) -> float:
    """Returns how well held-out harmful rows are told from the rows to weigh, as an AUROC.

    For each fold a class-balanced logistic probe is fitted to the references without the fold; then the fold's harmful
    rows are ranked against its anchors and all downstream rows together. An anchor of 50 rows alone is told from harm
    without an error by most representations, which leaves nothing to choose by. Harmful rows among the downstream rows
    lower the figure by at most half their share, whatever represents them.

    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.randn(60, 8, generator=generator)
    >>> z[30:, 0] += 9
    >>> held_out_separation(
    ...     z[:20], z[20:30], z[30:], safe_prompts=range(10), harmful_prompts=range(30), n_folds=5, generator=generator
    ... )
    1.0

    Args:
        downstream: Rows to weigh, or a sample, ``[n, d]``; their labels are not asked for.
        safe_anchor: ``[m_safe, d]``.
        harmful_reference: ``[m_harmful, d]``.
        safe_prompts: The prompt of each anchor row: rows of one prompt fall into one fold.
        harmful_prompts: The same of the harmful reference.
        n_folds: At most so many folds, fewer where a reference has fewer prompts.
        generator: Draws the folds.

    Returns:
        Mean over the folds, in [0, 1]; 0.5 is chance.

    Raises:
        DataError: A reference has a single prompt, or a row is zero or not finite.
        SotuneError: A fit diverged.
    """
    n_folds = min(n_folds, len(set(safe_prompts)), len(set(harmful_prompts)))
    if n_folds < 2:
        raise DataError(
            "representations are compared on prompts that are held out, and one reference has only one prompt"
        )
    rows = normalize_rows(downstream.double(), name="rows")
    safe, harmful = (normalize_rows(z.double(), name="columns") for z in (safe_anchor, harmful_reference))
    safe_fold, harmful_fold = (_folds(prompts, n_folds, generator) for prompts in (safe_prompts, harmful_prompts))
    found = []
    for fold in range(n_folds):
        harm = fit_balanced(
            safe[safe_fold != fold], harmful[harmful_fold != fold], inverse_regularization=PROBE_REGULARIZATION
        )
        others = torch.cat([safe[safe_fold == fold], rows])
        found.append(auroc(harm(harmful[harmful_fold == fold]), harm(others)))
    return sum(found) / n_folds


def held_out_contrast(
    safe_reference: Tensor,
    harmful_reference: Tensor,
    *,
    safe_prompts: Sequence[Hashable],
    harmful_prompts: Sequence[Hashable],
    n_folds: int,
    generator: torch.Generator,
) -> float:
    """Returns how well held-out harmful answers are told from held-out safe ones, as an AUROC.

    Both references have risky prompts, so that the topic tells little and the answer much; rows of one prompt fall into
    one fold, whichever reference they are of.

    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.randn(60, 8, generator=generator)
    >>> z[30:, 0] += 9
    >>> prompts = range(30)
    >>> held_out_contrast(
    ...     z[:30], z[30:], safe_prompts=prompts, harmful_prompts=prompts, n_folds=5, generator=generator
    ... )
    1.0

    Args:
        safe_reference: What represents the answers of safe rows, ``[m_safe, d]``.
        harmful_reference: The same of harmful rows, ``[m_harmful, d]``.
        safe_prompts: The prompt of each row of the safe reference.
        harmful_prompts: The same of the harmful reference.
        n_folds: At most so many folds, fewer where there are fewer prompts.
        generator: Draws the folds.

    Returns:
        Mean over the folds in which both references have rows, in [0, 1]; 0.5 is chance.

    Raises:
        DataError: No fold has rows of both with rows of both outside it, or a row is zero or not finite.
        SotuneError: A fit diverged.
    """
    sizes = [len(safe_reference), len(harmful_reference)]
    safe, harmful = torch.split(standardize(torch.cat([safe_reference, harmful_reference])), sizes)
    prompts = [*safe_prompts, *harmful_prompts]
    safe_fold, harmful_fold = torch.split(_folds(prompts, min(n_folds, len(set(prompts))), generator), sizes)
    found = []
    for fold in range(n_folds):
        inside = (safe[safe_fold == fold], harmful[harmful_fold == fold])
        outside = (safe[safe_fold != fold], harmful[harmful_fold != fold])
        if all(len(rows) for rows in (*inside, *outside)):
            harm = fit_balanced(*outside, inverse_regularization=ANSWER_REGULARIZATION)
            found.append(auroc(harm(inside[1]), harm(inside[0])))
    if not found:
        raise DataError("answers are compared on prompts that are held out, and the references have too few prompts")
    return sum(found) / len(found)


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Returns the probability that a positive scores above a negative, ties counted one half.

    >>> auroc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    0.875

    Args:
        positive: Scores, ``[k]``, at least one.
        negative: Scores, ``[l]``, at least one.
    """
    return float(outranked(negative, positive).mean())


def outranked(scores: Tensor, others: Tensor) -> Tensor:
    """Returns the share of the others that are above each score, ``[k]``; ties count one half.

    >>> outranked(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0]))
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    ordered = others.double().sort().values
    scores = scores.double()
    above = len(ordered) - torch.searchsorted(ordered, scores, right=True)
    equal = torch.searchsorted(ordered, scores, right=True) - torch.searchsorted(ordered, scores)
    return (above + equal / 2).double() / len(ordered)


def _folds(prompts: Sequence[Hashable], n_folds: int, generator: torch.Generator) -> Tensor:
    """Returns the fold of each row, ``[m]``; folds have as many prompts each, but for one."""
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    fold = torch.randperm(len(number), generator=generator) % n_folds
    return fold[torch.tensor([number[prompt] for prompt in prompts])]
