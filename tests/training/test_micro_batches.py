"""Cutting a step by length and packing its rows leave its gradient as it is."""

from functools import partial

import pytest
import torch
import transformers
from tiny_trainer import gradient_of_first_step, make_rows, parameters, train

from sotune.errors import ConfigError
from sotune.training.loss import IGNORE_INDEX
from sotune.training.micro_batches import check_packing, compute_packed_losses, cut_rows
from sotune.training.output_layer import compute_model_losses
from sotune.training.trainer import WeightedTrainer
from sotune.training.training_rows import WeightedCollator

WEIGHTS = [0.5, 1.7, 0.0, 2.2, 1.1, 0.3, 1.4, 0.8]
SHAPE = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PACKABLE = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "sliding": lambda: transformers.MistralConfig(**SHAPE, sliding_window=4),
    "gemma2": lambda: transformers.Gemma2Config(**SHAPE, head_dim=8, sliding_window=4, final_logit_softcapping=2.0),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=8),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=2, n_positions=64),
}


def make(config):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("most_tokens", [1, 8, 20, 1000])
@pytest.mark.parametrize("at_least", [1, 3, 9])
def test_each_row_is_in_one_part_within_the_budget(packed, most_tokens, at_least):
    lengths = [3, 9, 4, 4, 7, 1]
    parts = cut_rows(lengths, most_tokens=most_tokens, packed=packed, at_least=at_least)
    assert sorted(row for part in parts for row in part) == list(range(6))
    assert len(parts) >= min(at_least, 6)
    for part in parts:
        own = [lengths[row] for row in part]
        assert len(part) == 1 or (sum(own) if packed else len(own) * max(own)) <= most_tokens


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("most_tokens", [None, 1, 16, 40])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_gradient_of_a_step_stays_the_same(tmp_path, packing, most_tokens, accumulation):
    rows = make_rows(8, weights=WEIGHTS)
    arguments = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    expected = gradient_of_first_step(rows, tmp_path, **arguments)
    how = partial(WeightedTrainer, max_tokens_per_batch=most_tokens, packing=packing)
    got = gradient_of_first_step(rows, tmp_path, trainer_class=how, **arguments)
    assert (got - expected).abs().max() < 1e-6


def test_some_steps_end_with_the_same_parameters_and_losses(tmp_path):
    rows = make_rows(24, weights=WEIGHTS * 3)
    arguments = {"per_device_train_batch_size": 8, "max_steps": 5}
    plain, expected = train(rows, tmp_path, **arguments)
    how = partial(WeightedTrainer, max_tokens_per_batch=24, packing=True)
    packed, got = train(rows, tmp_path, trainer_class=how, **arguments)
    assert (got - expected).abs().max() < 1e-5
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (plain, packed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_losses_and_gradients_are_those_of_padded_rows(name):
    model = make(PACKABLE[name]())
    check_packing(model)
    batch = WeightedCollator(pad_token_id=0)(make_rows(5))
    labels = batch.pop("labels")
    labels[:, 0] = batch["input_ids"][:, 0]  # a first token that is labeled is predicted by nothing all the same
    del batch["loss_weight"]
    found = []
    for compute in (compute_model_losses, compute_packed_losses):
        model.zero_grad()
        losses = compute(model, batch, labels)
        losses.sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((losses.detach(), gradients, parameters(model)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    assert (found[1][1] - found[0][1]).abs().max() < 1e-5 * found[0][1].abs().max()
    assert int((found[0][0] != 0).sum()) == int((labels[:, 1:] != IGNORE_INDEX).sum())


def test_a_model_whose_rows_would_see_each_other_is_refused():
    state_space = transformers.MambaConfig(vocab_size=31, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(ConfigError, match="rows cannot be packed for a model of type 'mamba'.*leave packing off"):
        check_packing(make(state_space))
    with pytest.raises(ConfigError, match="leave packing off"):
        WeightedTrainer(model=make(state_space), packing=True)
