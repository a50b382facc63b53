"""Which tokens carry loss: a token that stays counts as much as it would among all."""

import pytest
import torch

from sotune.errors import DataError
from sotune.models import ModelSpec, load_tokenizer
from sotune.records import Record
from sotune.rendering import Renderer
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.training.training_rows import build_training_rows

ROWS = [Record.from_text(f"r{i}", f"Add {i}", "So be it." + " Yes." * i) for i in range(4)]
WEIGHTS = {f"r{i}": 0.5 + i for i in range(4)}


def build(tiny_model, learned):
    tokenizer = load_tokenizer(ModelSpec(str(tiny_model("llama"))))
    return build_training_rows(ROWS, WEIGHTS, Renderer(tokenizer, "paper", 48), learned_tokens=learned)


def test_masked_tokens_carry_no_loss_and_the_others_keep_their_share(tiny_model):
    plain = build(tiny_model, None).rows[1]
    n, n_prompt = int(plain.learned.sum()), int(plain.learned.nonzero()[0])
    learned = torch.ones(n, dtype=torch.bool)
    learned[[0, 2]] = False
    masked = build(tiny_model, {"r1": learned}).rows[1]
    before, after = plain.features(), masked.features()
    gone = before["labels"] != after["labels"]
    assert gone.nonzero().flatten().tolist() == [n_prompt, n_prompt + 2]
    assert (after["labels"][gone] == -100).all()
    # The row's mean is over the n − 2 tokens that stay: weight · (n − 2)/n · 1/(n − 2) = weight/n for each.
    assert after["loss_weight"] == pytest.approx(WEIGHTS["r1"] * (n - 2) / n)


def test_a_mask_changes_the_digest_and_a_full_one_nothing_else(tiny_model, tmp_path):
    rows = build(tiny_model, None).rows
    full = {row.id: torch.ones(int(row.learned.sum()), dtype=torch.bool) for row in rows}
    part = {**full, "r2": full["r2"].clone()}
    part["r2"][-1] = False
    assert len({build(tiny_model, mask).digest() for mask in (None, full, part)}) == 3
    adapters = [
        (
            fine_tune(
                ROWS,
                WEIGHTS,
                model=ModelSpec(str(tiny_model("llama")), dtype="float32", device="cpu"),
                settings=TrainingSettings(max_length=48, learning_rate=0.01, r=4, max_steps=8, template="paper"),
                output_dir=tmp_path / str(i),
                learned_tokens=mask,
            ).adapter
            / "adapter_model.safetensors"
        ).read_bytes()
        for i, mask in enumerate((None, full, part))
    ]
    assert adapters[0] == adapters[1] != adapters[2]


def test_a_row_without_a_token_to_learn_is_dropped_and_named(tiny_model):
    plain = build(tiny_model, None).rows[3]
    nothing = torch.zeros(int(plain.learned.sum()), dtype=torch.bool)
    rows = build(tiny_model, {"r3": nothing})
    assert [row.id for row in rows.rows] == ["r0", "r1", "r2"]
    assert rows.dropped == {"r3": "none of its completion tokens is to be learned"}


@pytest.mark.parametrize("mask", [torch.ones(1, dtype=torch.bool), torch.ones(6)])
def test_a_mask_that_does_not_fit_is_refused(tiny_model, mask):
    with pytest.raises(DataError, match="token mask of row 'r0' must be bool, one for each of its"):
        build(tiny_model, {"r0": mask})
