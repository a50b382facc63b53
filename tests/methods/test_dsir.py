import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from sotune.methods import METHODS, InputRecords, WeighInputs
from sotune.methods.dsir import N_BUCKETS, bucket_of, log_ratios, ngram_buckets
from sotune.records import Record


def rows(name, texts):
    return [Record.from_text(f"{name}{i}", text, "x") for i, text in enumerate(texts)]


def inputs(downstream, anchor):
    zeros = torch.zeros(len(downstream), 2)
    return WeighInputs(zeros, zeros, zeros, seed=0, records=InputRecords(rows("d", downstream), rows("s", anchor), []))


def test_ngrams_are_lower_case_words_and_punctuation_alone_and_in_pairs():
    expected = Counter(bucket_of(n) for n in ("don", "'", "t", "go", "!!", "don '", "' t", "t go", "go !!"))
    assert ngram_buckets("Don't GO!!") == expected


def test_a_bucket_is_the_sha_256_of_the_ngram():
    assert bucket_of("a") == int("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", 16) % N_BUCKETS


@pytest.mark.parametrize("mixing", [0.0, 0.1])
def test_log_ratios_by_hand(mixing):
    """Target: 3 of a, 1 of b. Raw: 2 of a, 6 of c."""
    a, b, c = 5, 17, 400
    ratio = log_ratios([Counter({a: 2}), Counter({a: 1, b: 1})], [Counter({a: 2, c: 6})], mixing=mixing)
    target, raw = {a: 3 / 4, b: 1 / 4, c: 0.0}, {a: 2 / 8, b: 0.0, c: 6 / 8}
    for bucket in (a, b, c):
        mixed = (1 - mixing) * target[bucket] + mixing * raw[bucket]
        assert float(ratio[bucket]) == pytest.approx(math.log(mixed + 1e-8) - math.log(raw[bucket] + 1e-8))
    assert float(ratio[0]) == 0.0


def test_an_unseen_word_costs_the_same_however_rare_it_is():
    raw, target = [Counter({1: 500, 2: 499, 3: 1})], [Counter({1: 50})]
    assert float(log_ratios(target, raw, mixing=0.0)[2]) < -17
    mixed = log_ratios(target, raw, mixing=0.1)
    assert float(mixed[2]) == pytest.approx(math.log(0.1), abs=1e-3)
    assert float(mixed[3]) == pytest.approx(math.log(0.1), abs=1e-3)


def test_short_rows_are_kept_and_the_noise_belongs_to_the_row():
    given = inputs(["sum", "sum it", "pick", "lock it"] * 10, ["sum it", "sum"])
    weights = METHODS["dsir"].weigh(given).weights
    assert len(weights) == 40
    assert len(set(weights.tolist())) == 40
    part = replace(given.records, downstream=list(reversed(given.records.downstream)))
    torch.testing.assert_close(METHODS["dsir"].weigh(replace(given, records=part)).weights.flip(0), weights)
    assert not torch.equal(METHODS["dsir"].weigh(replace(given, seed=1)).weights, weights)


def test_the_draw_follows_the_importance_weights():
    """One of two rows is drawn first in proportion to exp(score): here log 3 apart."""
    from sotune.methods.ranking import row_noise

    noise = torch.stack([row_noise(["a", "b"], seed) for seed in range(4000)])
    gumbel = -torch.log(-torch.log(noise))
    assert 0 < float(noise.min()) < float(noise.max()) < 1
    first = (gumbel[:, 0] + math.log(3) > gumbel[:, 1]).double().mean()
    assert float(first) == pytest.approx(0.75, abs=0.03)


def test_the_mean_variant_does_not_mind_the_length():
    given = inputs(["sum it", "sum it " * 8, "lock"], ["sum it sum it sum it"])
    weights = METHODS["dsir_mean"].weigh(given).weights
    assert weights[2] < weights[:2].min()
