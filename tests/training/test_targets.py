import re

import pytest

from sotune.errors import ConfigError
from sotune.models import ModelSpec, load_causal_lm
from sotune.settings.train import PAPER_TARGET_MODULES
from sotune.training.targets import resolve_target_modules


def load(tiny_model, architecture):
    return load_causal_lm(ModelSpec(str(tiny_model(architecture)), device="cpu"), frozen=False)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
def test_the_papers_layers_where_the_model_has_them(tiny_model, architecture):
    targets = resolve_target_modules(load(tiny_model, architecture), PAPER_TARGET_MODULES)
    assert targets.target_modules == ["q_proj", "v_proj"]
    assert not targets.fan_in_fan_out


def test_pefts_choice_where_it_has_not(tiny_model):
    targets = resolve_target_modules(load(tiny_model, "gpt2"), PAPER_TARGET_MODULES)
    assert targets.target_modules == ["c_attn"]
    assert targets.fan_in_fan_out


def test_only_the_text_decoder_of_a_multimodal_model(tiny_model):
    model = load(tiny_model, "gemma3")
    pattern = resolve_target_modules(model, PAPER_TARGET_MODULES).target_modules
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    assert matched == [f"model.language_model.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"]
    assert any(name.startswith("model.vision_tower") and name.endswith("q_proj") for name, _ in model.named_modules())


def test_plain_names_where_no_other_part_shares_them(tiny_model):
    targets = resolve_target_modules(load(tiny_model, "gemma3"), ("up_proj", "gate_proj"))
    assert targets.target_modules == ["gate_proj", "up_proj"]


def test_a_layer_that_the_user_named_is_never_replaced(tiny_model):
    with pytest.raises(ConfigError, match="'gpt2', lacks some of the target_modules k_proj; .*: c_attn, c_fc, c_proj$"):
        resolve_target_modules(load(tiny_model, "gpt2"), ("k_proj",))


def test_an_architecture_that_peft_does_not_know(tiny_model):
    model = load(tiny_model, "gpt2")
    model.config.model_type = "novel"
    with pytest.raises(ConfigError, match="'novel', lacks some of the target_modules q_proj, v_proj"):
        resolve_target_modules(model, PAPER_TARGET_MODULES)
