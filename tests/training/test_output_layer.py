"""The output layer on labeled tokens alone gives the losses and gradients of all logits."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from sotune.training import loss as loss_module
from sotune.training import output_layer
from sotune.training.loss import IGNORE_INDEX, compute_token_losses
from sotune.training.output_layer import compute_model_losses, keep_states

VOCABULARY = 50
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.4,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "soft-capped": lambda: transformers.Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=2.0),
    "multiplied": lambda: transformers.CohereConfig(**SHAPE, logit_scale=0.3),
    "divided": lambda: transformers.GraniteConfig(**SHAPE, logits_scaling=3.0),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "experts": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=2, output_router_logits=True),
    "state space": lambda: transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4
    ),
}


def make_model(name):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
    return model.train()


def make_batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    labels = ids.clone()
    for row, (start, end) in enumerate(((2, 11), (5, 8), (9, 10))):
        mask[row, end:] = 0
        labels[row, :start] = labels[row, end:] = IGNORE_INDEX
    return {"input_ids": ids, "attention_mask": mask}, labels


def gradients(losses, model):
    weight = torch.linspace(0.5, 2.0, len(losses))[:, None]
    (losses * weight).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def adapted(model, targets):
    torch.manual_seed(0)
    model = get_peft_model(
        model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    )
    return model.train()


def check(make):
    batch, labels = make_batch()
    model = make()
    expected = compute_token_losses(model(**batch)["logits"], labels)
    expected_gradients = gradients(expected, model)
    model = make()
    got = compute_model_losses(model, batch, labels)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    got_gradients = gradients(got, model)
    assert got_gradients.keys() == expected_gradients.keys() != set()
    for name, gradient in got_gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Of four tokens."""
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 4 * VOCABULARY)
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 4 * VOCABULARY)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_of_a_whole_model(name):
    check(lambda: make_model(name))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "state space"])
def test_losses_and_gradients_of_adapters(name):
    check(lambda: adapted(make_model(name), ["c_attn"] if name == "gpt2" else ["q_proj", "v_proj"]))


def test_an_adapter_on_the_output_layer_learns():
    check(lambda: adapted(make_model("llama"), ["q_proj", "lm_head"]))


def test_gradient_checkpointing_is_no_hindrance():
    def make():
        model = adapted(make_model("llama"), ["q_proj"])
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
        return model

    check(make)


def test_autocast_computes_logits_in_half_precision():
    batch, labels = make_batch()
    model = adapted(make_model("soft-capped"), ["q_proj"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = compute_token_losses(model(**batch)["logits"], labels)
        got = compute_model_losses(model, batch, labels)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    gradients(got, model)


def logits_again(model, batch, where):
    kept, logits = keep_states(model, batch, where)
    return logits(kept)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_some_tokens(name):
    batch, labels = make_batch()
    model, where = make_model(name).eval(), labels != IGNORE_INDEX
    with torch.no_grad():
        torch.testing.assert_close(logits_again(model, batch, where), model(**batch).logits[where])


def test_the_model_is_as_it_was():
    batch, labels = make_batch()
    model = make_model("llama")
    expected = model(**batch).logits
    compute_model_losses(model, batch, labels)
    assert "forward" not in model.model.__dict__
    assert torch.equal(model(**batch).logits, expected)


def test_no_more_logits_than_asked_for_are_computed():
    batch, labels = make_batch()
    model = adapted(make_model("llama"), ["q_proj"])
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _m, _i, logits: seen.append(logits.shape[:-1].numel()))
    gradients(compute_model_losses(model, batch, labels), model)
    n_labeled = int((labels[:, 1:] != IGNORE_INDEX).sum())
    assert max(seen) == 4
    assert sum(seen) == n_labeled + len(labels)  # and one of each row, which is what the model's own call returns


class Odd(torch.nn.Module):
    """A causal LM with nothing inside that is known."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.table(input_ids)}


def test_a_model_of_another_build_computes_all_logits():
    check(lambda: (torch.manual_seed(0), Odd())[1])
    batch, labels = make_batch()
    model, where = Odd(), labels != IGNORE_INDEX
    assert torch.equal(logits_again(model, batch, where), model(**batch)["logits"][where])
