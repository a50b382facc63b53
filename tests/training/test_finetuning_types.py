"""What is trained and how the weights are held: each way learns, resumes to the same bytes, and loads again."""

import importlib.util
import json

import pytest
import torch
from test_finetune import Killed, kill_at, make_records, make_settings, make_weights, run
from transformers import AutoModelForCausalLM

from sotune.artifacts import sha256_file
from sotune.errors import ConfigError
from sotune.methods.folding import load_layers
from sotune.models import ModelSpec, load_adapted, load_causal_lm, load_tokenizer
from sotune.training import fine_tune
from sotune.training.change import StepChange

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
WAYS = {
    "dora": {"finetuning_type": "dora"},
    "rslora": {"finetuning_type": "rslora"},
    "full": {"finetuning_type": "full", "learning_rate": 1e-3},
    "checkpointed": {"gradient_checkpointing": True},
    "packed": {
        "packing": True, "max_tokens_per_batch": 60, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    },
    "nf4": {"quantization": "nf4", "gradient_checkpointing": True},
}  # fmt: skip
ALL = [pytest.param(name, marks=[needs_bitsandbytes] if name == "nf4" else []) for name in WAYS]


def digests(result):
    return {path.name: sha256_file(path) for path in result.adapter.iterdir() if path.suffix == ".safetensors"}


def logits(model, folder):
    input_ids = load_tokenizer(ModelSpec(str(folder), device="cpu"))("Add 3 and 4", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=input_ids).logits


@pytest.mark.parametrize("way", ALL)
def test_each_way_resumes_to_the_same_bytes_and_loads(tiny_model, tmp_path, way):
    settings = {"max_steps": 5, "lora_dropout": 0.1, "n": 8, **WAYS[way]}
    folder = tiny_model("llama")
    expected = run(folder, tmp_path / "straight", **settings)
    with pytest.raises(Killed):
        run(folder, tmp_path / "killed", on_step=kill_at(4), **settings)
    steps = []
    got = run(folder, tmp_path / "killed", on_step=lambda step: steps.append(step.step), **settings)
    assert steps == [3, 4, 5]
    assert digests(got) == digests(expected) != {}
    assert got.log.read_bytes() == expected.log.read_bytes()
    spec = ModelSpec(str(folder), device="cpu")
    before, after = logits(load_causal_lm(spec, frozen=True), folder), logits(load_adapted(spec, got.adapter), folder)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize(("way", "name"), [("dora", "use_dora"), ("rslora", "use_rslora")])
def test_the_configuration_says_which_kind_of_adapter_it_is(tiny_model, tmp_path, way, name):
    result = run(tiny_model("llama"), tmp_path, max_steps=1, **WAYS[way])
    assert json.loads((result.adapter / "adapter_config.json").read_text())[name] is True
    with pytest.raises(ConfigError, match="a plain LoRA adapter; set finetuning_type: lora"):
        load_layers(result.adapter)


@pytest.mark.parametrize("way", ["checkpointed", "packed"])
def test_what_saves_memory_or_time_changes_no_step(tiny_model, tmp_path, way):
    settings = {"max_steps": 3, "n": 8, **WAYS[way]}
    plain = {name: value for name, value in settings.items() if "packing" not in name and "max_tokens" not in name}
    expected = run(tiny_model("llama"), tmp_path / "plain", **{**plain, "gradient_checkpointing": False})
    got = run(tiny_model("llama"), tmp_path / "way", **settings)
    losses = [[json.loads(line)["loss"] for line in r.log.read_text().splitlines()] for r in (expected, got)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_full_fine_tuning_hands_over_a_whole_model(tiny_model, tmp_path):
    folder = tiny_model("llama")
    result = run(folder, tmp_path, max_steps=2, **WAYS["full"])
    assert not (result.adapter / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(result.adapter)
    assert loaded.config.use_cache is True
    assert loaded.dtype == AutoModelForCausalLM.from_pretrained(folder).dtype
    moved = [
        not torch.equal(now, then)
        for now, then in zip(loaded.parameters(), load_causal_lm(ModelSpec(str(folder)), frozen=True).parameters(),
                             strict=True)
    ]  # fmt: skip
    assert sum(moved) > len(moved) // 2
    assert str(folder) not in (result.adapter / "config.json").read_text()
    assert "PeftModel" not in (result.adapter / "README.md").read_text()


class Nothing(StepChange):
    name = "nothing"


def test_full_fine_tuning_cannot_be_held(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="finetuning_type full trains no adapter.*hold: none"):
        fine_tune(
            make_records(),
            make_weights(),
            model=ModelSpec(str(tiny_model("llama")), device="cpu"),
            settings=make_settings(finetuning_type="full"),
            output_dir=tmp_path,
            change=Nothing(),
        )


def test_four_bits_cannot_be_trained_whole(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="weights in 4 bits cannot be trained; use finetuning_type lora"):
        run(tiny_model("llama"), tmp_path, finetuning_type="full", quantization="nf4")


def test_a_missing_bitsandbytes_is_told(tiny_model, tmp_path, monkeypatch):
    own = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else own(name))
    with pytest.raises(ConfigError, match=r"quantization nf4 needs bitsandbytes; pip install 'sotune\[quantized\]'"):
        run(tiny_model("llama"), tmp_path, quantization="nf4")


@needs_bitsandbytes
def test_the_layers_are_held_in_four_bits_and_the_output_layer_is_not(tiny_model):
    model = load_causal_lm(ModelSpec(str(tiny_model("llama")), device="cpu"), frozen=False, quantization="nf4")
    kinds = {name.rpartition(".")[2]: type(module).__name__ for name, module in model.named_modules()}
    assert (kinds["q_proj"], kinds["down_proj"], kinds["lm_head"]) == ("Linear4bit", "Linear4bit", "Linear")
    assert model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
