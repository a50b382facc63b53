import dataclasses
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from sotune.errors import ConfigError, DataError, SotuneError
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.records import Record
from sotune.rendering import tokenize
from sotune.representations import CausalLMEncoder
from sotune.representations.causal_lm import last_token_states, pad_batch
from tiny_models import ARCHITECTURES, build_tiny_model

HIDDEN_SIZE, N_LAYERS, MAX_POSITIONS = 32, 2, 512  # of every tiny model
SETTINGS = {"layer": -1, "template": "paper", "max_length": 256, "batch_tokens": 600}


def make_encoder(folder, *, dtype="float32", **settings):
    return CausalLMEncoder(ModelSpec(str(folder), dtype=dtype, device="cpu"), **{**SETTINGS, **settings})


def reference_states(folder, records, *, layer=-1, template="paper", max_length=256, dtype="float32"):
    """One row at a time, unpadded, through the whole model as Hugging Face runs it."""
    spec = ModelSpec(str(folder), dtype=dtype, device="cpu")
    model, tokenizer = load_causal_lm(spec, frozen=True), load_tokenizer(spec)
    rows = []
    for record in records:
        ids = tokenize(record, tokenizer, template=template, max_length=max_length).input_ids
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        rows.append(output.hidden_states[layer][0, -1].float())
    return torch.stack(rows)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_last_token_states_equal_one_row_at_a_time(tiny_model, records, architecture, padding_side):
    folder = tiny_model(architecture)
    # A budget of many rows puts the shortest and the longest into one batch.
    encoder = make_encoder(folder, padding_side=padding_side, batch_tokens=100_000)
    values = encoder.encode(records)
    assert values.dtype == torch.float32
    assert values.shape == (len(records), HIDDEN_SIZE) == (len(records), encoder.dimension)
    torch.testing.assert_close(values, reference_states(folder, records), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("layer", [0, 1, N_LAYERS, -1, -2, -3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_layer_equals_its_hidden_states(tiny_model, records, architecture, layer, padding_side):
    folder, few = tiny_model(architecture), records[::5]
    values = make_encoder(folder, layer=layer, padding_side=padding_side).encode(few)
    torch.testing.assert_close(values, reference_states(folder, few, layer=layer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chat_template(tiny_model, records, architecture):
    folder, few = tiny_model(architecture), records[::4]
    values = make_encoder(folder, template="chat").encode(few)
    torch.testing.assert_close(values, reference_states(folder, few, template="chat"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_bfloat16_inside_float32_outside(tiny_model, records, architecture):
    folder = tiny_model(architecture)
    values = make_encoder(folder, dtype="bfloat16").encode(records)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, reference_states(folder, records, dtype="bfloat16"), rtol=0.1, atol=0.15)
    assert not torch.equal(values, make_encoder(folder).encode(records))


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_logits_are_computed(tiny_model, records, architecture, layer, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the head ran")

    def load_without_head(spec, *, frozen):
        model = load_causal_lm(spec, frozen=frozen)
        model.get_output_embeddings().forward = refuse
        return model

    monkeypatch.setattr("sotune.representations.causal_lm.load_causal_lm", load_without_head)
    assert make_encoder(tiny_model(architecture), layer=layer).encode(records[:3]).isfinite().all()


def test_a_middle_layer_skips_those_after_it(tiny_model, records):
    encoder = make_encoder(tiny_model("llama"), layer=1)
    calls = []
    encoder._decoder.layers[1].register_forward_hook(lambda *_: calls.append(1))
    encoder.encode(records)
    assert calls == []
    assert not encoder._decoder.layers[1]._forward_pre_hooks


def test_weights_are_frozen_and_no_graph_is_kept(tiny_model, records):
    encoder = make_encoder(tiny_model("llama"))
    values = encoder.encode(records[:2])
    assert not values.requires_grad
    assert not encoder._decoder.training
    assert not any(parameter.requires_grad for parameter in encoder._decoder.parameters())


def test_weights_are_loaded_with_the_first_batch(tiny_model, records, monkeypatch):
    encoder = make_encoder(tiny_model("llama"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    encoder.prepare(records)
    assert encoder.fingerprint
    with pytest.raises(TypeError):
        encoder.encode(records)


def test_truncated_rows_are_counted_and_equal_the_reference(tiny_model, records):
    folder = tiny_model("qwen3")
    encoder = make_encoder(folder, max_length=16)
    prepared = encoder.prepare(records)
    assert prepared.lengths.max() == 16
    assert 0 < prepared.truncated.sum() < len(records)
    torch.testing.assert_close(
        encoder.encode(records), reference_states(folder, records, max_length=16), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_max_length_ends_at_the_positions_of_the_model(tiny_model, architecture):
    encoder = make_encoder(tiny_model(architecture), max_length=10 * MAX_POSITIONS)
    row = Record.from_text("long", "sea " * 2 * MAX_POSITIONS, "wide")
    assert encoder.prepare([row]).lengths.tolist() == [MAX_POSITIONS]
    assert encoder.description["max_length"] == MAX_POSITIONS
    assert encoder.encode([row]).isfinite().all()


def test_tokens_are_kept_as_they_were(tiny_model, records):
    encoder = make_encoder(tiny_model("llama"))
    prepared = encoder.prepare(records)
    tokenizer = load_tokenizer(ModelSpec(str(tiny_model("llama"))))
    expected = [tokenize(record, tokenizer, template="paper", max_length=256).input_ids for record in records]
    assert [tuple(prepared.inputs[i]) for i in range(len(prepared.inputs))] == expected
    assert prepared.lengths.tolist() == [len(ids) for ids in expected]


def test_key_knows_the_text_and_where_the_completion_begins(tiny_model):
    encoder = make_encoder(tiny_model("llama"))
    pairs = [("a", "b"), ("a", "c"), ("a; Assistant: b", "c"), ("a", "b; Assistant: c")]
    rows = [Record.from_text("x", *pair) for pair in pairs]
    assert len({encoder.key(row) for row in rows}) == len(rows)
    assert encoder.key(rows[0]) == encoder.key(dataclasses.replace(rows[0], id="y"))


@pytest.mark.parametrize("layer", [3, 99, -4])
def test_layer_out_of_range(tiny_model, layer):
    with pytest.raises(ConfigError, match=rf"layer {layer} does not exist: the model has 2 layers"):
        make_encoder(tiny_model("llama"), layer=layer)


def test_chat_template_is_missing(tmp_path):
    folder = build_tiny_model("gpt2", tmp_path, chat_template=False)
    with pytest.raises(ConfigError, match="needs a tokenizer with a chat template"):
        make_encoder(folder, template="chat")


def test_representations_that_are_not_finite(tiny_model, tmp_path, records):
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)
    model.save_pretrained(folder)
    with pytest.raises(DataError, match=r"NaN or infinity .*'row-\d+'.*use dtype float32"):
        make_encoder(folder).encode(records)


def test_out_of_memory_names_the_setting(tiny_model, records, monkeypatch):
    def exhaust(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    encoder = make_encoder(tiny_model("llama"))
    monkeypatch.setattr(encoder._decoder, "forward", exhaust)
    with pytest.raises(SotuneError, match=r"does not fit the memory.*lower batch_tokens \(it is 600\)"):
        encoder.encode(records)


def test_unusual_decoder_has_the_last_layer_only():
    class Unusual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, **_):
            return None

    ids, mask = pad_batch([[1, 2], [3]], padding_side="right", pad_token_id=0)
    for n_layers, reason in ((2, "does not run its layers in order"), (5, "no list of 5 layers was found")):
        with pytest.raises(ConfigError, match=f"{reason}.*use layer -1"):
            last_token_states(Unusual(), ids, mask, layer=1, n_layers=n_layers)


@pytest.mark.parametrize(("side", "ids"), [("left", [[1, 2, 3], [9, 9, 4]]), ("right", [[1, 2, 3], [4, 9, 9]])])
def test_padding(side, ids):
    input_ids, mask = pad_batch([[1, 2, 3], [4]], padding_side=side, pad_token_id=9)
    assert input_ids.tolist() == ids
    assert mask.tolist() == [[int(token != 9) for token in row] for row in ids]


def test_fingerprint_changes_with_each_setting(tiny_model, tmp_path):
    folder = tiny_model("llama")
    other_weights = build_tiny_model("llama", tmp_path / "other", seed=1)
    fingerprints = [
        make_encoder(folder).fingerprint,
        make_encoder(folder, layer=1).fingerprint,
        make_encoder(folder, template="chat").fingerprint,
        make_encoder(folder, max_length=100).fingerprint,
        make_encoder(folder, padding_side="left").fingerprint,
        make_encoder(folder, dtype="bfloat16").fingerprint,
        make_encoder(other_weights).fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)


def test_fingerprint_is_of_the_content(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model("llama"), tmp_path / "copy")
    first, second = make_encoder(tiny_model("llama")), make_encoder(copy, batch_tokens=50)
    assert first.fingerprint == second.fingerprint
    assert make_encoder(copy, layer=2).fingerprint == make_encoder(copy, layer=-1).fingerprint
    assert json.loads(json.dumps(dict(second.description)))["name"] == str(copy)
