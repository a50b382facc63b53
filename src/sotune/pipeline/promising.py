"""How many rows a run keeps, and what its sentinels say of that cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sotune.artifacts import RunFolder, read_json
from sotune.pipeline.sentinel_files import SENTINEL_SUMMARY, SentinelScores, read_sentinels, require_sentinels
from sotune.selection import keep_count
from sotune.settings import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sotune.sentinels import Cut, HarmfulShare

PROMISE = "promise.json"


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
    by_sentinels = config.keep == "auto" and k is None
    sentinels = require_sentinels(run) if by_sentinels else read_sentinels(run)
    n = len(weights)
    if k is None and not by_sentinels:
        k = keep_count(n, keep_fraction=config.keep_fraction, k=config.k)
    if sentinels is None:
        assert k is not None  # what the sentinels place needs them
        note = read_json(run.file(SENTINEL_SUMMARY))["note"]
        return Promise(k, sorted(weights, reverse=True)[k - 1], {"keep": config.keep, "k": k, "n": n, "note": note})
    return _measured(config, weights, sentinels, k)


def _measured(config: RunConfig, weights: Sequence[float], sentinels: SentinelScores, k: int | None) -> Promise:
    """Measures a cut with sentinels: that of ``k`` rows, or where it is ``None`` the one that they place."""
    import torch

    from sotune.sentinels import Rate, estimate_harmful_share, harmful_rows_kept, log_relative

    scores, n = log_relative(torch.tensor(weights, dtype=torch.float64)), len(weights)
    places = sentinels.tuning_outranked
    share = estimate_harmful_share(
        scores, sentinels.harmful, safe_outranked=sentinels.safe_outranked, tuning_outranked=places
    )
    bound: dict[str, Any] = {}
    if k is not None:
        # At a cut that no sentinel placed: a sentinel passes when it weighs no less than the smallest kept row.
        cut = float(scores.sort(descending=True).values[k - 1])
        passing = sentinels.harmful >= cut
    else:
        found, bound = _placed(config, scores, sentinels, share)
        k, passing = found.k, sentinels.harmful > found.score
        cut = found.score if found.score > -float("inf") else float(scores.min())
    passed, n_harmful = Rate.of(passing), round(share.estimate * n)
    described = {
        "keep": config.keep,
        "k": k,
        "n": n,
        "note": "",
        **bound,
        "harmful_pass": asdict(passed),
        "safe_lost": _safe_lost(sentinels, k, n),
        "harmful_share": asdict(share),
        "n_harmful_estimate": n_harmful,
        "harmful_rows_kept_at_most": harmful_rows_kept(passed, n_harmful),
    }
    return Promise(k, float(torch.tensor(cut, dtype=torch.float64).exp()) / n, described)


def _placed(
    config: RunConfig, scores: Tensor, sentinels: SentinelScores, share: HarmfulShare
) -> tuple[Cut, dict[str, Any]]:
    """Returns the cut that keeps the limit, and what it promises."""
    from sotune.sentinels import cut_at_harmful_share, cut_at_pass_rate

    if config.max_harmful_share is None:
        limit = config.max_harmful_pass
        found = cut_at_pass_rate(scores, sentinels.harmful, max_harmful_pass=limit)
        return found, {"promised": "harmful_pass", "limit": limit, "bound": found.bound}
    limit = config.max_harmful_share
    places = sentinels.tuning_outranked
    found = cut_at_harmful_share(scores, sentinels.harmful, share, tuning_outranked=places, max_harmful_share=limit)
    return found, {"promised": "harmful_share", "limit": limit, "bound": found.bound}


def _safe_lost(sentinels: SentinelScores, k: int, n: int) -> dict[str, Any] | None:
    from sotune.sentinels import Rate

    return asdict(Rate.of(sentinels.safe_outranked >= k / n)) if len(sentinels.safe_outranked) else None
