import dataclasses
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from sotune.errors import ConfigError, DataError, SotuneError
from sotune.models import ModelSpec, load_causal_lm, load_tokenizer
from sotune.records import Record
from sotune.rendering import Renderer
from sotune.representations import (
    POOLINGS,
    CausalLMEncoder,
    FrozenCausalLM,
    Reading,
    RepresentationCache,
    candidate_layers,
    encode_with_cache,
)
from sotune.representations.hidden_states import TokenRow, pad_batch, read_hidden_states
from sotune.settings import RenderingSettings
from tiny_models import ARCHITECTURES, build_tiny_model

HIDDEN_SIZE, N_LAYERS, MAX_POSITIONS = 32, 2, 512  # of every tiny model


def make_encoder(
    folder, *, dtype="float32", layer=-1, pooling="last", template="paper", max_length=256, batch_tokens=600, **settings
):
    model = FrozenCausalLM(
        ModelSpec(str(folder), dtype=dtype, device="cpu"),
        RenderingSettings(template=template, max_length=max_length),
        batch_tokens=batch_tokens,
        **settings,
    )
    return CausalLMEncoder(model, layer=layer, pooling=pooling)


def pool_by_hand(states, learned, pooling):
    """The definition, for one row of states."""
    if pooling == "last":
        return states[learned[-1][1] - 1]
    places = [place for start, end in learned for place in range(start, end)]
    completion = sum(states[place] for place in places) / len(places)
    if pooling == "prompt_and_completion":
        asked = [states[place] for place in range(1, learned[-1][0]) if place not in places]
        return torch.cat([sum(asked) / len(asked) if asked else torch.zeros_like(completion), completion])
    return completion - states[learned[-1][0] - 1] if pooling == "completion_minus_prompt" else completion


def reference_states(folder, records, *, layer=-1, pooling="last", template="paper", max_length=256, dtype="float32"):
    """One row at a time, unpadded, through the whole model as Hugging Face runs it."""
    spec = ModelSpec(str(folder), dtype=dtype, device="cpu")
    model, tokenizer = load_causal_lm(spec, frozen=True), load_tokenizer(spec)
    renderer, rows = Renderer(tokenizer, template, max_length), []
    for record in records:
        tokens = renderer.tokens(record)
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([tokens.input_ids]), output_hidden_states=True)
        rows.append(pool_by_hand(output.hidden_states[layer][0].float(), tokens.learned, pooling))
    return torch.stack(rows)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_last_token_states_equal_one_row_at_a_time(tiny_model, records, architecture, padding_side):
    folder = tiny_model(architecture)
    # A budget of many rows puts the shortest and the longest into one batch.
    encoder = make_encoder(folder, padding_side=padding_side, batch_tokens=100_000)
    values = encoder.encode(records)
    assert values.dtype == torch.float32
    assert values.shape == (len(records), HIDDEN_SIZE)
    torch.testing.assert_close(values, reference_states(folder, records), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("layer", [0, 1, N_LAYERS, -1, -2, -3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_layer_equals_its_hidden_states(tiny_model, records, architecture, layer, padding_side):
    folder, few = tiny_model(architecture), records[::5]
    values = make_encoder(folder, layer=layer, padding_side=padding_side).encode(few)
    torch.testing.assert_close(values, reference_states(folder, few, layer=layer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_reading_of_one_pass_equals_one_row_at_a_time(tiny_model, records, architecture, padding_side):
    folder, few = tiny_model(architecture), records[::3]
    model = make_encoder(folder, padding_side=padding_side).model
    readings = [Reading(layer, pooling) for layer in range(N_LAYERS + 1) for pooling in POOLINGS]
    prepared = model.prepare(few)
    states = model.encode_batch(list(prepared.inputs), readings)
    for reading, values in zip(readings, states, strict=True):
        expected = reference_states(folder, few, layer=reading.layer, pooling=reading.pooling)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5, msg=lambda m, r=reading: f"{r}: {m}")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", [1, N_LAYERS])
def test_a_reading_has_the_same_bits_alone_and_beside_others(tiny_model, records, layer, pooling):
    encoder = make_encoder(tiny_model("gemma3"), layer=layer, pooling=pooling)
    inputs = list(encoder.prepare(records).inputs)
    others = [Reading(N_LAYERS, "completion_mean"), encoder.reading, Reading(0, "last")]
    assert torch.equal(encoder.encode_batch(inputs), encoder.model.encode_batch(inputs, others)[1])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("max_length", [9, 16])
def test_pooling_of_truncated_rows(tiny_model, records, pooling, max_length):
    folder = tiny_model("llama")
    values = make_encoder(folder, pooling=pooling, max_length=max_length).encode(records)
    expected = reference_states(folder, records, pooling=pooling, max_length=max_length)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chat_template(tiny_model, records, architecture, pooling):
    folder, few = tiny_model(architecture), records[::4]
    values = make_encoder(folder, template="chat", pooling=pooling).encode(few)
    expected = reference_states(folder, few, template="chat", pooling=pooling)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


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
    encoder.model.decoder.layers[1].register_forward_hook(lambda *_: calls.append(1))
    encoder.encode(records)
    assert calls == []
    assert not encoder.model.decoder.layers[1]._forward_pre_hooks


def test_weights_are_frozen_and_no_graph_is_kept(tiny_model, records):
    encoder = make_encoder(tiny_model("llama"))
    values = encoder.encode(records[:2])
    assert not values.requires_grad
    assert not encoder.model.decoder.training
    assert not any(parameter.requires_grad for parameter in encoder.model.decoder.parameters())


def test_weights_are_loaded_with_the_first_batch(tiny_model, records, monkeypatch):
    encoder = make_encoder(tiny_model("llama"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    encoder.prepare(records)
    assert encoder.fingerprint
    with pytest.raises(ConfigError, match="could not be loaded"):
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
    renderer = Renderer(load_tokenizer(ModelSpec(str(tiny_model("llama")))), "paper", 256)
    expected = [renderer.tokens(record).input_ids for record in records]
    assert [tuple(row.ids) for row in prepared.inputs] == expected
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


def out_of_memory_beyond(decoder, most_tokens, monkeypatch):
    """Makes passes of more tokens fail; returns the sizes of all passes."""
    sizes, forward = [], decoder.forward

    def limited(input_ids, **inputs):
        sizes.append(input_ids.numel())
        if input_ids.numel() > most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(decoder, "forward", limited)
    return sizes


def test_a_batch_that_memory_does_not_hold_is_halved_and_its_shard_keeps_its_name(
    tiny_model, records, monkeypatch, tmp_path
):
    monkeypatch.setattr("sotune.representations.encoder.PASS_COST", 1.0)  # batches are as full as they may be
    encoder = make_encoder(tiny_model("llama"))
    whole = encode_with_cache(encoder, records, RepresentationCache(tmp_path / "whole"), shard_rows=8)
    sizes = out_of_memory_beyond(encoder.model.decoder, 300, monkeypatch)
    halved = encode_with_cache(encoder, records, RepresentationCache(tmp_path / "halved"), shard_rows=8)
    assert halved.shards == whole.shards
    torch.testing.assert_close(halved.values, whole.values, rtol=0, atol=1e-5)  # last bits may differ
    failed = [size for size in sizes if size > 300]
    assert 0 < len(failed) < len(sizes) / 2
    assert failed == sorted(set(failed), reverse=True)  # what failed once is not tried again at that size


def test_a_row_that_memory_does_not_hold_names_the_setting(tiny_model, records, monkeypatch):
    encoder = make_encoder(tiny_model("llama"))
    out_of_memory_beyond(encoder.model.decoder, 0, monkeypatch)
    with pytest.raises(SotuneError, match=r"row '.*' of \d+ tokens does not fit into memory, even alone; lower max_le"):
        encoder.encode(records)


def test_another_fault_of_a_pass_is_not_taken_for_lack_of_memory(tiny_model, records, monkeypatch):
    encoder = make_encoder(tiny_model("llama"))

    def fail(**_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(encoder.model.decoder, "forward", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        encoder.encode(records)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pass_has_a_mask_only_where_a_token_could_see_padding(tiny_model, records, architecture, monkeypatch):
    seen = {}
    for side in ("left", "right"):
        model = make_encoder(tiny_model(architecture), padding_side=side).model
        forward, masks = model.decoder.forward, []

        def noting(attention_mask=None, _forward=forward, _masks=masks, **inputs):
            _masks.append(attention_mask is not None)
            return _forward(attention_mask=attention_mask, **inputs)

        monkeypatch.setattr(model.decoder, "forward", noting)
        inputs = list(model.prepare(records).inputs)
        model.encode_batch(inputs[:4], [Reading(2, "last")])  # of several lengths
        model.encode_batch(inputs[:1] * 3, [Reading(2, "last")])
        seen[side] = masks
    assert seen == {"left": [True, False], "right": [False, False]}


def test_a_decoder_that_looks_ahead_has_its_mask(tiny_model, records, monkeypatch):
    model = make_encoder(tiny_model("gemma3_text")).model
    monkeypatch.setattr(model.decoder.config, "use_bidirectional_attention", True)
    masks = []
    monkeypatch.setattr(model.decoder, "forward", lambda attention_mask, **_: masks.append(attention_mask))
    with pytest.raises(AttributeError):
        model.encode_batch(list(model.prepare(records).inputs)[:4], [Reading(2, "last")])
    assert masks[0] is not None


def test_unusual_decoder_has_the_last_layer_only():
    class Unusual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, **_):
            return None

    batch = pad_batch([TokenRow([1, 2], [(1, 2)]), TokenRow([3], [(0, 1)])], padding_side="right", pad_token_id=0)
    for n_layers, reason in ((2, "does not run its layers in order"), (5, "no list of 5 layers was found")):
        with pytest.raises(ConfigError, match=f"{reason}.*use layer -1"):
            read_hidden_states(Unusual(), batch, [Reading(1, "last")], n_layers=n_layers)


@pytest.mark.parametrize(
    ("side", "ids", "completion", "last", "last_of_prompt"),
    [
        ("left", [[1, 2, 3], [9, 9, 4]], [[0, 1, 1], [0, 0, 1]], [2, 2], [0, 2]),
        ("right", [[1, 2, 3], [4, 9, 9]], [[0, 1, 1], [1, 0, 0]], [2, 0], [0, 0]),
    ],
)
def test_padding(side, ids, completion, last, last_of_prompt):
    batch = pad_batch([TokenRow([1, 2, 3], [(1, 3)]), TokenRow([4], [(0, 1)])], padding_side=side, pad_token_id=9)
    assert batch.input_ids.tolist() == ids
    assert batch.attention_mask.tolist() == [[int(token != 9) for token in row] for row in ids]
    assert batch.completion.int().tolist() == completion
    assert batch.last.tolist() == last
    assert batch.last_of_prompt.tolist() == last_of_prompt


@pytest.mark.parametrize(("side", "shift"), [("left", 1), ("right", 0)])
def test_each_learned_turn_counts_and_what_stands_after_the_last_does_not(side, shift):
    rows = [TokenRow(range(1, 8), [(1, 3), (5, 6)]), TokenRow(range(1, 9), [(4, 8)])]
    batch = pad_batch(rows, padding_side=side, pad_token_id=9)
    assert batch.completion.int().tolist()[0] == [0] * shift + [0, 1, 1, 0, 0, 1, 0] + [0] * (1 - shift)
    assert batch.last.tolist() == [5 + shift, 7]
    assert batch.last_of_prompt.tolist() == [4 + shift, 3]


def test_padding_of_nan_reaches_no_mean():
    class Padded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids, attention_mask, **_):
            states = input_ids.float().masked_fill(attention_mask == 0, torch.nan)[:, :, None]
            return type("Output", (), {"last_hidden_state": states})

    batch = pad_batch([TokenRow([1, 2, 6], [(1, 3)]), TokenRow([3, 5], [(1, 2)])], padding_side="left", pad_token_id=0)
    readings = [Reading(2, pooling) for pooling in POOLINGS]
    last, mean, difference, joined = (v.tolist() for v in read_hidden_states(Padded(), batch, readings, n_layers=2))
    assert (last, mean, difference) == ([[6], [5]], [[4], [5]], [[3], [2]])
    assert joined == [[0, 4], [0, 5]]  # a row's first token is no part of the prompt's mean


@pytest.mark.parametrize(("n_layers", "layers"), [(1, (1,)), (2, (2, 1)), (3, (3, 2, 1)), (32, (32, 24, 16, 8))])
def test_candidate_layers(n_layers, layers):
    assert candidate_layers(n_layers) == layers


def test_unknown_pooling(tiny_model):
    with pytest.raises(ConfigError, match="pooling must be one of last, completion_mean.*Got 'first'"):
        make_encoder(tiny_model("llama"), pooling="first")


def test_fingerprint_changes_with_each_setting(tiny_model, tmp_path):
    folder = tiny_model("llama")
    other_weights = build_tiny_model("llama", tmp_path / "other", seed=1)
    fingerprints = [
        make_encoder(folder).fingerprint,
        make_encoder(folder, layer=1).fingerprint,
        make_encoder(folder, pooling="completion_mean").fingerprint,
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
