"""What a change costs in tokens, by a change that reads a known number of them."""

import pytest
import torch

from sotune.methods.counted import Counted
from sotune.training import fine_tune
from sotune.training.change import StepChange


class Reads(StepChange):
    """Reads 2 · 5 tokens before, in each step, and at the end."""

    name = "reads"

    def __init__(self):
        self.rows = 0

    def start(self, model):
        self.read(model)

    def read(self, model):
        return model(input_ids=torch.ones(2, 5, dtype=torch.long))["logits"].square().mean()

    def batch(self, batch, step):
        self.rows += int(batch["attention_mask"].sum())
        return batch

    def penalty(self, model, step):
        return self.read(model)

    def finish(self, model):
        self.read(model)
        return {"mine": 1.0}


def trained(inputs, change, folder, **settings):
    return fine_tune(
        inputs.records,
        inputs.loss_weights,
        model=inputs.tools.model,
        settings=inputs.tools.training.replace(**settings),
        output_dir=folder,
        change=change,
    )


def test_the_share_by_hand(train_inputs, tmp_path):
    change = Reads()
    figures = trained(train_inputs, Counted(change), tmp_path, max_steps=6, gradient_accumulation_steps=2).figures
    assert figures == {"mine": 1.0, "extra_tokens": pytest.approx((1 + 6 + 1) * 10 / change.rows)}


def test_counting_changes_no_byte(train_inputs, tmp_path):
    counted, plain = Counted(Reads()), Reads()
    files = [trained(train_inputs, c, tmp_path / n).adapter / "adapter_model.safetensors" for n, c in
             (("counted", counted), ("plain", plain))]  # fmt: skip
    assert files[0].read_bytes() == files[1].read_bytes()
    assert counted.name == plain.name
    counted.restore({"tokens": 30.0, "tokens_of_rows": 10.0})
    assert counted.state() == {"tokens": 30, "tokens_of_rows": 10}
