"""DSIR: importance resampling with hashed n-grams.

Xie et al., *Data selection for language models via importance resampling* (NeurIPS 2023,
https://arxiv.org/abs/2302.03169). With p_T the bucket frequencies of the target (the safe anchor) and p_R those of the
raw data (all downstream rows), a row's score is ``Σ_b count(b)·[log p_T(b) − log p_R(b)]``; Gumbel noise and the K
largest are a draw without replacement in proportion to the importance weights.

Released code (data-selection 1.0.3) drops rows of fewer than 100 tokens, which is nearly all of a chat set, and then
fails when fewer than K are left; it draws its noise from the global generator; and without smoothing, a bucket that a
small target has not seen costs some 9 to 14 nats. Here no row is dropped, and noise belongs to the seed and the row's
id. Its optional smoothing adds a count to every bucket of the target, which favors whatever is rare in the raw data;
here a tenth of p_T is p_R instead (ours), so that an unseen bucket costs 2.3 nats, however rare it is. The score is a
sum, so long rows have large scores of either sign: ``dsir_mean`` divides by the number of n-grams and draws nothing.
Prompt and completion are both read.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from sotune.methods.inputs import WeighInputs, all_text
from sotune.methods.method import Method
from sotune.methods.ranking import row_noise, weights_by_rank
from sotune.settings import StageSettings

N_BUCKETS = 10_000
_FLOOR = 1e-8  # added to frequencies before the logarithm, as in the released code
_TOKEN = re.compile(r"\w+|[^\w\s]+")


class DsirSettings(StageSettings):
    """DSIR: its own constants."""

    mixing: float = Field(0.1, ge=0, lt=1, description="Share of the raw frequencies in the target's (ours).")


def weigh(inputs: WeighInputs, *, by_mean: bool = False) -> Tensor:
    """Returns weights by rank of the noisy score, or of the score per n-gram without noise, ``[n]``.

    Raises:
        ConfigError: There are no records.
    """
    records = inputs.require_records("dsir")
    rows, target = ([ngram_buckets(all_text(r)) for r in some] for some in (records.downstream, records.pull))
    ratio = log_ratios(target, rows, mixing=inputs.own(DsirSettings).mixing)
    scores = torch.tensor([sum(n * float(ratio[b]) for b, n in row.items()) for row in rows], dtype=torch.float64)
    if by_mean:
        return weights_by_rank(scores / torch.tensor([max(1, row.total()) for row in rows]))
    noise = row_noise([record.id for record in records.downstream], inputs.seed)
    return weights_by_rank(scores - torch.log(-torch.log(noise)))


def log_ratios(target: Sequence[Counter[int]], raw: Sequence[Counter[int]], *, mixing: float) -> Tensor:
    """Returns ``log(p_T + 1e-8) − log(p_R + 1e-8)`` of each bucket, ``[N_BUCKETS]``.

    Args:
        target: Bucket counts of each row of the target.
        raw: The same of the raw data.
        mixing: Share of the raw frequencies in the target's, in [0, 1).
    """
    counts = [torch.zeros(N_BUCKETS, dtype=torch.float64) for _ in range(2)]
    for vector, rows in zip(counts, (target, raw), strict=True):
        for row in rows:
            vector[list(row)] += torch.tensor(list(row.values()), dtype=torch.float64)
    of_target, p_raw = (vector / vector.sum() for vector in counts)
    p_target = (1 - mixing) * of_target + mixing * p_raw
    return (p_target + _FLOOR).log() - (p_raw + _FLOOR).log()


def ngram_buckets(text: str) -> Counter[int]:
    """Counts the lower-case unigrams and bigrams of a text by the bucket that SHA-256 puts them in."""
    words = _TOKEN.findall(text.lower())
    pairs = [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]
    return Counter(bucket_of(ngram) for ngram in [*words, *pairs])


def bucket_of(ngram: str) -> int:
    """Returns an n-gram's bucket, in ``[0, N_BUCKETS)``."""
    return int(hashlib.sha256(ngram.encode()).hexdigest(), 16) % N_BUCKETS


DSIR = Method(
    "dsir",
    "DSIR",
    citation="Xie et al., Data selection for language models via importance resampling (NeurIPS 2023)",
    link="https://arxiv.org/abs/2302.03169",
    weigher=weigh,
    own_settings=(DsirSettings,),
)
METHODS = (DSIR, replace(DSIR, name="dsir_mean", title="DSIR, mean per n-gram", weigher=partial(weigh, by_mean=True)))
