"""How many rows a run keeps, and what its sentinels say of that cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.artifacts import RunFolder
from sotune.pipeline.sentinel_files import SentinelScores, read_sentinels, require_sentinels
from sotune.run_files import SENTINEL_SUMMARY
from sotune.selection import keep_count
from sotune.sentinels import (
    Cut,
    HarmfulShare,
    Rate,
    cut_at_harmful_share,
    cut_at_pass_rate,
    cut_where_harm_thins,
    estimate_harmful_share,
    harmful_rows_kept,
    harmful_share_kept,
    log_relative,
)
from sotune.settings import RunConfig

_TIE = 1e-5  # in log weight: nearer than rounding tells apart, and then harm is said to pass
_ODD = 0.01  # of the rows, which may look harmful though no harm is found
_MOST_UNSEEN = 0.1  # bound on the harmful share above which nothing is known, so that nothing is said of it


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


def make_promise(config: RunConfig, run: RunFolder, weights: NDArray[np.float64], *, k: int | None) -> Promise:
    """Finds the cut that the settings ask for, and measures it with the run's sentinels.

    Args:
        config: The settings.
        run: Holds the sentinels.
        weights: Of the downstream rows, on the simplex, ``[n]``.
        k: How many the method itself keeps; ``None`` where it leaves that to the settings.

    Raises:
        ConfigError: No cut keeps the limit that the settings name; the message says what would be needed.
        DataError: More rows are to be kept than there are.
    """
    n = len(weights)
    limited = config.max_harmful_pass is not None or config.max_harmful_share is not None
    sentinels = require_sentinels(run) if k is None and limited else read_sentinels(run)
    asked = k if k is not None or config.keep == "auto" else _count(config, n)
    about = {"keep": config.keep, "n": n}
    if sentinels is None:
        note = SENTINEL_SUMMARY.read(run)["note"]
        if asked is None:
            asked, note = _count(config, n), _kept_anyway(note, config)
        described = {**about, "k": asked, "note": note}
        return Promise(asked, float(np.sort(weights)[len(weights) - asked]), described)
    scores = log_relative(torch.tensor(weights, dtype=torch.float64))
    share = estimate_harmful_share(
        scores,
        sentinels.harmful,
        safe_outranked=sentinels.safe_outranked,
        tuning_outranked=sentinels.tuning_outranked,
    )
    placed = _place(config, scores, sentinels, share) if asked is None else _at_count(asked, scores)
    passed = Rate.of(placed.keeps(sentinels.harmful))
    n_harmful = round(share.estimate * n)
    free = asked is None and not placed.bound
    safe_lost = _rate(sentinels.safe_outranked >= placed.k / n)
    described = {
        **about,
        "k": placed.k,
        "note": "",
        **placed.bound,
        "no_harm_found": free and placed.k >= (1 - _ODD) * n and share.high <= _MOST_UNSEEN,
        "harmful_pass": asdict(passed),
        "safe_lost": safe_lost,
        "safe_answers_lost": _rate(~placed.keeps(sentinels.safe)),
        "harmful_share": asdict(share),
        "n_harmful_estimate": n_harmful,
        "harmful_rows_kept_at_most": harmful_rows_kept(passed, n_harmful),
        "kept_harmful_share_at_most": harmful_share_kept(passed.count, passed.n, share, keep=placed.k / n),
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
    return _Placed(k, score, lambda scores: scores >= score - _TIE, {})


def _place(config: RunConfig, scores: Tensor, sentinels: SentinelScores, share: HarmfulShare) -> _Placed:
    """Returns the cut that keeps as many rows as the settings' limit allows, or else that where harm thins out."""
    promised: dict[str, Any] = {}
    found: Cut | None
    if config.max_harmful_pass is not None:
        found = cut_at_pass_rate(scores, sentinels.harmful, max_harmful_pass=config.max_harmful_pass)
        promised = {"promised": "harmful_pass", "limit": config.max_harmful_pass, "bound": found.bound}
    elif config.max_harmful_share is not None:
        limit, tuning = config.max_harmful_share, sentinels.tuning_outranked
        found = cut_at_harmful_share(scores, sentinels.harmful, share, tuning_outranked=tuning, max_harmful_share=limit)
        promised = {"promised": "harmful_share", "limit": limit, "bound": found.bound}
    else:
        found = cut_where_harm_thins(
            scores,
            tuning_outranked=sentinels.tuning_outranked,
            drop_at=config.drop_at,
            safe_outranked=sentinels.safe_tuning_outranked,
        )
    refused = _why_no_cut(found, sentinels, len(scores)) if not promised else ""
    if found is None or refused:
        note = _kept_anyway(refused, config)
        return replace(_at_count(_count(config, len(scores)), scores), bound={"note": note})
    score = found.score if found.score > -float("inf") else float(scores.min())
    return _Placed(found.k, score, lambda scores: scores > found.score, promised)


def _count(config: RunConfig, n: int) -> int:
    return keep_count(n, keep_fraction=config.keep_fraction, k=config.k)


def _kept_anyway(why: str, config: RunConfig) -> str:
    return f"{why}; so {config.keep_fraction:.0%} of the rows are kept"


def _why_no_cut(found: Cut | None, sentinels: SentinelScores, n: int) -> str:
    """Returns why a cut that the tuning sentinels found is not taken; nothing where it is."""
    if found is None:
        return "the weights do not tell the sentinels from the rows"
    lost = sentinels.safe_outranked >= found.k / n
    if 2 * int(lost.sum()) <= len(lost):
        return ""
    return (
        f"a cut by the sentinels would lose {int(lost.sum())} of {len(lost)} anchor rows, since the weights hardly "
        f"tell your rows from harm (weigh by another model or encoder)"
    )


def _rate(hits: Tensor) -> dict[str, Any] | None:
    """Returns a rate with its bounds; ``None`` where nothing was tried."""
    return asdict(Rate.of(hits)) if len(hits) else None
