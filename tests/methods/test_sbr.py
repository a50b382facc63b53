from dataclasses import replace

import pytest
import torch

from sotune.methods.sbr import AnchorStates, train
from sotune.models import load_adapted, load_causal_lm
from sotune.training import fine_tune

PROMPTS = [[1, 20, 21], [1, 30, 31, 32, 33]]


def anchor(alpha=50.0):
    return AnchorStates(PROMPTS, pad_token_id=0, alpha=alpha)


def test_the_term_by_hand(train_inputs):
    """Each prompt alone and unpadded, the last token's normed state, the mean square of its shift."""
    model = load_causal_lm(train_inputs.tools.model, frozen=False)
    change = anchor()
    change.start(model)
    assert float(change.penalty(model, 0).detach()) == pytest.approx(0.0, abs=1e-9)

    def states():
        with torch.no_grad():
            return torch.stack([model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in PROMPTS])

    before = states()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(0.1)
    expected = 50 * ((states() - before) ** 2).mean()
    penalty = change.penalty(model, 1)
    assert float(expected) > 1e-2
    assert float(penalty.detach()) == pytest.approx(float(expected), rel=1e-4)
    penalty.backward()
    assert model.model.layers[0].mlp.down_proj.weight.grad.abs().max() > 0


def test_anchored_training_moves_the_states_less(train_inputs, tmp_path):
    from sotune.methods.method import train_weighted

    change = anchor()
    base = load_adapted(train_inputs.tools.model, None)
    change.start(base)
    shifts = []
    for name, how in (("plain", train_weighted), ("anchored", train)):
        adapter = how(replace(train_inputs, output_dir=tmp_path / name)).adapter
        with torch.no_grad():
            shifts.append(float(change.penalty(load_adapted(train_inputs.tools.model, adapter), 0)))
    # The anchored run holds other prompts, those of the reference; the states of all end-of-prompt cues move together.
    assert shifts[1] < shifts[0]


def test_no_strength_no_change(train_inputs, tmp_path):
    arguments = {
        "model": train_inputs.tools.model,
        "settings": train_inputs.tools.training,
    }
    losses = []
    for name, change in (("plain", None), ("zero", anchor(alpha=0.0))):
        result = fine_tune(
            train_inputs.records, train_inputs.loss_weights, output_dir=tmp_path / name, change=change, **arguments
        )
        losses.append((result.adapter / "adapter_model.safetensors").read_bytes())
    assert losses[0] == losses[1]
