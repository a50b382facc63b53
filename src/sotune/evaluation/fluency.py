"""Figures of the text itself, which need no judge: empty, cut, repetitive, monotonous answers."""

from __future__ import annotations

from collections.abc import Sequence

from sotune.errors import DataError
from sotune.evaluation.estimates import Estimate, estimate_mean, estimate_rate
from sotune.evaluation.protocol import Response

REPEAT_N = 4
DISTINCT_N = 2


def repeated_share(text: str, n: int) -> float | None:
    """Computes 1 − distinct n-grams / n-grams of words, rep-n of https://arxiv.org/abs/1908.04319; None without any."""
    grams = _ngrams(text, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else None


def distinct_share(text: str, n: int) -> float | None:
    """Computes distinct over all word n-grams, distinct-n of https://arxiv.org/abs/1510.03055; None without any."""
    repeated = repeated_share(text, n)
    return None if repeated is None else 1.0 - repeated


def measure_fluency(
    responses: Sequence[Response], *, confidence: float, n_resamples: int, seed: int
) -> dict[str, Estimate]:
    """Computes what can be counted in the answers alone.

    ``empty``: share of answers without a visible character. ``cut_off``: share that the token budget ended.
    ``repetition``: mean share of repeated word 4-grams, over answers with at least four words. ``distinct_2``: mean
    share of distinct word pairs, over answers with at least two. Answers that are too short for a figure are no part
    of its n, and not unscored either: there is nothing in them to count.

    Raises:
        DataError: There are no responses.
    """
    import torch

    if not responses:
        raise DataError("there is nothing to count: 0 responses were given; generate answers first")
    figures = {
        "empty": estimate_rate([float(not any(c.isprintable() and not c.isspace() for c in r.text))
                                for r in responses], confidence=confidence),
        "cut_off": estimate_rate([float(not r.finished) for r in responses], confidence=confidence),
    }  # fmt: skip
    for name, shares in (
        ("repetition", [repeated_share(r.text, REPEAT_N) for r in responses]),
        ("distinct_2", [distinct_share(r.text, DISTINCT_N) for r in responses]),
    ):
        known = [share for share in shares if share is not None]
        if known:
            generator = torch.Generator().manual_seed(seed)
            figures[name] = estimate_mean(known, confidence=confidence, n_resamples=n_resamples, generator=generator)
    return figures


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.casefold().split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))
