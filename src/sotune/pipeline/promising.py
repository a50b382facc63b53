"""How many rows a run keeps, and what its sentinels say of that cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sotune.artifacts import RunFolder
from sotune.pipeline.sentinel_files import SentinelScores, read_sentinels, require_sentinels
from sotune.run_files import SENTINEL_SUMMARY
from sotune.selection import keep_count
from sotune.sentinels import (
    HarmfulShare,
    Rate,
    cut_at_harmful_share,
    cut_at_pass_rate,
    estimate_harmful_share,
    harmful_rows_kept,
    log_relative,
)
from sotune.settings import RunConfig


@dataclass(frozen=True)
class Promise:
    """A cut and what is measured at it.

    Attributes:
        k: How many rows are kept.
        cut_weight: Weight that margins are measured from: the sentinel's that the cut was put at, or the smallest kept.
        described: What promise.json holds.
    """

    k: int
    cut_weight: float
    described: dict[str, Any]


def make_promise(config: RunConfig, run: RunFolder, weights: Sequence[float], *, k: int | None) -> Promise:
    """Finds the cut that the settings ask for, and measures it with the run's sentinels.

    Args:
        config: The settings.
        run: Holds the sentinels.
        weights: Of the downstream rows, on the simplex.
        k: How many the method itself keeps; ``None`` where it leaves that to the settings.

    Raises:
        ConfigError: ``keep`` is ``auto``, and no cut can promise what is asked; the message says what would be needed.
        DataError: More rows are to be kept than there are.
    """
    n = len(weights)
    if k is None and config.keep != "auto":
        k = keep_count(n, keep_fraction=config.keep_fraction, k=config.k)
    sentinels = require_sentinels(run) if k is None else read_sentinels(run)
    about = {"keep": config.keep, "n": n}
    if sentinels is None:
        assert k is not None  # what the sentinels place needs them
        described = {**about, "k": k, "note": SENTINEL_SUMMARY.read(run)["note"]}
        return Promise(k, sorted(weights, reverse=True)[k - 1], described)
    scores = log_relative(torch.tensor(weights, dtype=torch.float64))
    share = estimate_harmful_share(
        scores,
        sentinels.harmful,
        safe_outranked=sentinels.safe_outranked,
        tuning_outranked=sentinels.tuning_outranked,
    )
    placed = _place(config, scores, sentinels, share) if k is None else _at_count(k, scores)
    passed = Rate.of(placed.keeps(sentinels.harmful))
    n_harmful = round(share.estimate * n)
    described = {
        **about,
        "k": placed.k,
        "note": "",
        **placed.bound,
        "harmful_pass": asdict(passed),
        "safe_lost": _rate(sentinels.safe_outranked >= placed.k / n),
        "safe_answers_lost": _rate(~placed.keeps(sentinels.safe)),
        "harmful_share": asdict(share),
        "n_harmful_estimate": n_harmful,
        "harmful_rows_kept_at_most": harmful_rows_kept(passed, n_harmful),
    }
    return Promise(placed.k, float(torch.tensor(placed.score, dtype=torch.float64).exp()) / n, described)


@dataclass(frozen=True)
class _Placed:
    """A cut: how many rows it keeps, the score at it, which scores it would keep, and what it promises."""

    k: int
    score: float
    keeps: Callable[[Tensor], Tensor]
    bound: dict[str, Any]


def _at_count(k: int, scores: Tensor) -> _Placed:
    """Returns a cut that no sentinel placed: one passes when it weighs no less than the smallest kept row."""
    score = float(scores.sort(descending=True).values[k - 1])
    return _Placed(k, score, lambda scores: scores >= score, {})


def _place(config: RunConfig, scores: Tensor, sentinels: SentinelScores, share: HarmfulShare) -> _Placed:
    """Returns the cut that keeps as many rows as the limit of the settings allows."""
    if config.max_harmful_share is None:
        promised, limit = "harmful_pass", config.max_harmful_pass
        found = cut_at_pass_rate(scores, sentinels.harmful, max_harmful_pass=limit)
    else:
        promised, limit = "harmful_share", config.max_harmful_share
        found = cut_at_harmful_share(
            scores, sentinels.harmful, share, tuning_outranked=sentinels.tuning_outranked, max_harmful_share=limit
        )
    score = found.score if found.score > -float("inf") else float(scores.min())
    bound = {"promised": promised, "limit": limit, "bound": found.bound}
    return _Placed(found.k, score, lambda scores: scores > found.score, bound)


def _rate(hits: Tensor) -> dict[str, Any] | None:
    """Returns a rate with its bounds; ``None`` where nothing was tried."""
    return asdict(Rate.of(hits)) if len(hits) else None
