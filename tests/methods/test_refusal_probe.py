"""The probe of a training run asks risky prompts and judges the answers by phrases."""

from dataclasses import replace

import pytest
import torch

from sotune.errors import ConfigError
from sotune.methods.refusal_probe import refusal_probe
from sotune.models import load_causal_lm


def test_the_probe_asks_prompts_of_the_harmful_reference(train_inputs):
    assert refusal_probe(train_inputs) is None
    training = train_inputs.tools.training.replace(stop_at_harmful_rate=0.5, probe_prompts=4)
    limited = replace(train_inputs, tools=replace(train_inputs.tools, training=training))
    probe = refusal_probe(limited)
    model = load_causal_lm(limited.tools.model, frozen=False)
    state = torch.get_rng_state()
    rate = probe(model)
    assert rate in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ConfigError, match="asks prompts of the harmful reference, and none fits"):
        refusal_probe(replace(limited, harmful_reference=[]))
