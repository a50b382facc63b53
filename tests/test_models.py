import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from sotune.errors import ConfigError
from sotune.models import (
    ModelSpec,
    download_model,
    evaluating,
    load_causal_lm,
    load_config,
    load_tokenizer,
    model_fingerprint,
    resolve_device,
)
from tiny_models import ARCHITECTURES


@pytest.fixture
def model_copy(tiny_model, tmp_path):
    """A folder that a test may spoil."""
    return shutil.copytree(tiny_model("llama"), tmp_path / "model")


def cpu(folder, **settings):
    return ModelSpec(str(folder), device="cpu", **settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("frozen", [True, False])
def test_model_and_tokenizer_load(tiny_model, architecture, frozen):
    spec = cpu(tiny_model(architecture))
    model, tokenizer = load_causal_lm(spec, frozen=frozen), load_tokenizer(spec)
    assert model.training is not frozen
    assert all(parameter.requires_grad is not frozen for parameter in model.parameters())
    assert tokenizer.pad_token_id is not None
    assert load_config(spec).get_text_config().num_hidden_layers == 2


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_dtype_is_that_of_the_spec(tiny_model, dtype):
    model = load_causal_lm(cpu(tiny_model("llama"), dtype=dtype), frozen=True)
    assert model.dtype == (torch.float32 if dtype == "auto" else getattr(torch, dtype))


@pytest.mark.parametrize("load", [load_tokenizer, load_config, model_fingerprint])
@pytest.mark.parametrize("name", ["./no/such/folder", "/nowhere/model", "a/b/c"])
def test_missing_folder(load, name):
    with pytest.raises(ConfigError, match="does not exist or is not a folder; check the path"):
        load(ModelSpec(name))


@pytest.mark.parametrize("load", [load_tokenizer, load_config, model_fingerprint])
def test_hub_id_that_is_not_cached(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"(?s)nobody/nothing.*could not be loaded.*or name a local folder"):
        load(ModelSpec("nobody/nothing"))


def test_missing_hub_model_leaves_no_chained_traceback(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as caught:
        load_causal_lm(ModelSpec("nobody/nothing", device="cpu"), frozen=True)
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("check", [lambda spec: load_causal_lm(spec, frozen=True), model_fingerprint])
def test_pickled_weights_are_refused(model_copy, check):
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickled weights only \(pytorch_model.bin\).*use_safetensors=True"):
        check(cpu(model_copy))


def test_pickled_weights_of_a_sentence_module_are_refused(model_copy):
    (model_copy / "2_Dense").mkdir()
    (model_copy / "2_Dense" / "pytorch_model.bin").touch()
    (model_copy / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))
    with pytest.raises(ConfigError, match="2_Dense holds pickled weights only"):
        model_fingerprint(cpu(model_copy))


def test_unreadable_module_list(model_copy):
    (model_copy / "modules.json").write_text("[1]")
    with pytest.raises(ConfigError, match="is not a list of modules"):
        model_fingerprint(cpu(model_copy))


def test_folder_without_weights(model_copy):
    (model_copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="holds no weights"):
        load_causal_lm(cpu(model_copy), frozen=True)


def test_folder_without_configuration(model_copy):
    (model_copy / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        load_causal_lm(cpu(model_copy), frozen=True)


def test_adapter_folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds an adapter, not a whole model; merge it"):
        model_fingerprint(cpu(tmp_path))


def test_damaged_weights(model_copy):
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"could not be loaded.*check the folder's files"):
        load_causal_lm(cpu(model_copy), frozen=True)


def test_missing_parameters_are_an_error_not_random_numbers(model_copy):
    weights = load_file(model_copy / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.weight"
    del weights[lost]
    save_file(weights, model_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"lacks 1 of the parameters.*{lost}"):
        load_causal_lm(cpu(model_copy), frozen=True)


def test_unknown_model_type(model_copy):
    (model_copy / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ConfigError, match=r"could not be loaded \(.*no-such-type"):
        load_config(cpu(model_copy))


def test_tokenizer_without_padding_pads_with_eos(model_copy):
    _drop_token(model_copy, "pad_token")
    tokenizer = load_tokenizer(cpu(model_copy))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_tokenizer_without_padding_and_eos(model_copy):
    _drop_token(model_copy, "pad_token", "eos_token")
    with pytest.raises(ConfigError, match="neither a padding nor an end-of-sequence token"):
        load_tokenizer(cpu(model_copy))


def _drop_token(folder, *names):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in names}))


def test_remote_code_is_loud(tiny_model):
    with pytest.warns(UserWarning, match="trust_remote_code is on"):
        load_config(cpu(tiny_model("llama"), trust_remote_code=True))


def test_remote_code_is_refused_by_default(model_copy):
    config = json.loads((model_copy / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "homemade.Config"}}
    (model_copy / "config.json").write_text(json.dumps(config))
    (model_copy / "homemade.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(ConfigError, match="could not be loaded"):
        load_config(cpu(model_copy))


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="device must be auto, cpu"):
        resolve_device("toaster")
    with pytest.raises(ConfigError, match="this machine has"):
        resolve_device("cuda:99")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_fingerprint_sees_every_file_that_matters(model_copy, name):
    before = model_fingerprint(cpu(model_copy))
    path = model_copy / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert model_fingerprint(cpu(model_copy)) != before


def test_fingerprint_ignores_the_place_and_the_readme(tiny_model, model_copy):
    (model_copy / "README.md").write_text("Trained with care.")
    assert model_fingerprint(cpu(model_copy)) == model_fingerprint(cpu(tiny_model("llama")))


def test_fingerprint_of_a_hub_id_is_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fingerprints = []
    for commit in ("a" * 40, "b" * 40):
        repository = tmp_path / "models--some--model"
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        fingerprints.append(model_fingerprint(ModelSpec("some/model")))
    assert fingerprints[0] != fingerprints[1]
    assert model_fingerprint(ModelSpec("some/model", revision="a" * 40)) == fingerprints[0]


def test_import_is_light():
    code = "import sys, sotune.models; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "own_module.Own", "path": ""}, "names the module 'own_module.Own', which may run code"),
        ({"type": "sentence_transformers.models.WordEmbeddings", "path": ""}, "which may run code"),
        ({"type": "os.system", "path": ""}, "which may run code"),
        ({"type": "sentence_transformers.models.Pooling", "path": "../elsewhere"}, "a module outside its folder"),
        ([], "is not a list of modules"),
    ],
)
def test_an_encoder_brings_no_module_of_its_own(tmp_path, tiny_model, entry, message):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "encoder")
    (folder / "own_module.py").write_text("raise SystemExit('code ran')")
    (folder / "modules.json").write_text(json.dumps([entry]))
    for load in (download_model, model_fingerprint):
        with pytest.raises(ConfigError, match=message):
            load(ModelSpec(str(folder)))


def test_the_output_layer_gets_contiguous_states_while_evaluating(tiny_model):
    """A causal LM hands on a slice of its states; of a batch they would be multiplied one by one."""
    model = load_causal_lm(cpu(tiny_model("llama")), frozen=True)
    layouts = []
    model.lm_head.register_forward_hook(lambda _, states, __: layouts.append(states[0].is_contiguous()))
    ids = torch.arange(12).reshape(3, 4)
    with evaluating(model):
        within = model(input_ids=ids, logits_to_keep=1).logits
    torch.testing.assert_close(within, model(input_ids=ids, logits_to_keep=1).logits)
    assert layouts == [True, False]
