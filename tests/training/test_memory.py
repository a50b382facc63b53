"""What training takes is counted without any weights, and agrees with what a real model takes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from sotune.settings import TrainingSettings
from sotune.training.memory import estimate

GIB = 2**30
LLAMA_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8,
)  # fmt: skip


def small(n_layers=3):
    return LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=n_layers, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip


def kept_by_hand(config, settings, tokens):
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config),
        LoraConfig(r=settings.r, target_modules=list(settings.target_modules), task_type="CAUSAL_LM"),
    ).train()
    model.enable_input_require_grads()
    own = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mask = torch.ones(1, tokens, dtype=torch.long).index_fill(1, torch.tensor([tokens - 1]), 0)
        states = model.get_base_model().model(torch.zeros_like(mask), attention_mask=mask)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    del states
    return sum(storage.nbytes() for storage in kept.values()), n_trained


def test_activations_and_adapter_agree_with_those_of_a_padded_batch():
    settings = TrainingSettings(max_length=256, r=4)
    found = estimate(small(), settings, half=False)
    kept, n_trained = kept_by_hand(small(), settings, 256)
    assert found.activations == pytest.approx(kept, rel=0.1)
    assert (found.adapter, found.optimizer) == (4 * n_trained, 8 * n_trained)
    assert found.weights == 4 * sum(p.numel() for p in AutoModelForCausalLM.from_config(small()).parameters())


def test_8b_fits_a_card_of_24_gb_with_nf4():
    plain = estimate(LLAMA_8B, TrainingSettings(max_length=2048))
    nf4 = estimate(LLAMA_8B, TrainingSettings(max_length=2048, quantization="nf4"))
    tight = estimate(LLAMA_8B, TrainingSettings(max_length=2048, quantization="nf4", gradient_checkpointing=True))
    assert plain.total > 24 * GIB > 18 * GIB > nf4.total
    assert tight.total < 8 * GIB
    assert 5 * GIB < nf4.weights < 6 * GIB < 14 * GIB < plain.weights
    assert nf4.logits < 0.2 * GIB


def test_full_fine_tuning_holds_gradients_and_moments_of_all():
    found = estimate(small(), TrainingSettings(finetuning_type="full", max_length=64))
    assert (found.adapter, found.gradients, found.optimizer) == (0, found.weights, 2 * found.weights)


def test_a_token_budget_bounds_it():
    budget = estimate(small(), TrainingSettings(max_length=2048, max_tokens_per_batch=512))
    assert budget.activations < estimate(small(), TrainingSettings(max_length=2048)).activations / 3


def test_the_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    estimate(small(), TrainingSettings(max_length=64))
    assert torch.equal(torch.rand(1), expected)
