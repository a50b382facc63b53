import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sotune.errors import ConfigError
from sotune.methods import METHODS, safe_delta, safe_lora
from sotune.methods.folding import LowRank, beside, load_layers
from sotune.methods.inputs import EditInputs
from sotune.methods.method import train_weighted
from sotune.methods.resta import edit
from sotune.methods.safe_delta import input_grams, kept_within
from sotune.methods.safe_lora import projected
from sotune.methods.tuned import tune_on
from sotune.models import ModelSpec, load_causal_lm
from sotune.training.training_rows import build_equal_rows


def test_updates_beside_each_other_add_up():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        LowRank(torch.randn(r, 5, generator=generator), torch.randn(7, r, generator=generator)) for r in (2, 3)
    )
    both = beside(first, second)
    assert both.a.shape == (5, 5)
    torch.testing.assert_close(both.b @ both.a, first.b @ first.a + second.b @ second.a)


def test_resta_subtracts_half_of_harm(train_inputs):
    result = train_weighted(train_inputs)
    before = load_layers(result.adapter)
    edit(EditInputs(result.adapter, train_inputs))
    after = load_layers(result.adapter)
    harm = load_layers(tune_on(train_inputs.harmful_reference, train_inputs.tools, name="again"))
    for name, update in after.items():
        expected = before[name].b @ before[name].a - 0.5 * harm[name].b @ harm[name].a
        torch.testing.assert_close(update.b @ update.a, expected, rtol=1e-4, atol=1e-5)
        assert (harm[name].b @ harm[name].a).norm() > 1e-2


def test_an_update_within_the_subspace_of_alignment_stays():
    """By hand: V = [[3, 0], [0, 0]], so C = V Vᵀ / 3 = V, which keeps threefold what is along the first."""
    shift = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    along = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0], [0.0]]))  # cosine 1
    assert projected(along, shift, below=0.5) is along
    across = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0], [2.0]]))  # C B = 0, cosine 0
    torch.testing.assert_close(projected(across, shift, below=0.5).b, torch.zeros(2, 1))
    between = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [2.0]]))  # C B = (3, 0): cosine 1/√5
    assert projected(between, shift, below=0.44) is between
    torch.testing.assert_close(projected(between, shift, below=0.45).b, torch.tensor([[3.0], [0.0]]))
    torch.testing.assert_close(projected(along, torch.zeros(2, 2), below=0.5).b, torch.zeros(2, 1))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_safe_lora_reads_the_model_before_alignment(train_inputs, tiny_model, tmp_path, architecture):
    """Where alignment changed nothing but one layer by the identity, that layer's update stays and all others go."""
    folder = tiny_model(architecture)
    inputs = replace(train_inputs, tools=replace(train_inputs.tools, model=ModelSpec(str(folder), device="cpu")))
    result = train_weighted(inputs)
    before = load_layers(result.adapter)
    shutil.copytree(folder, tmp_path / "unaligned")
    weights = load_file(folder / "model.safetensors")
    layer = next(
        name for name, update in before.items() if len(update.b) == update.a.shape[1] or architecture == "gpt2"
    )
    own = layer.removeprefix("base_model.model.")
    name = next(key for key in weights if own.endswith(key.removesuffix(".weight")) and key.endswith(".weight"))
    weights[name] = weights[name] - torch.eye(*weights[name].shape)
    save_file(weights, tmp_path / "unaligned" / "model.safetensors", metadata={"format": "pt"})
    unaligned = {"unaligned_model": str(tmp_path / "unaligned")}
    safe_lora.edit(EditInputs(result.adapter, replace(inputs, method_settings=unaligned)))
    for name, update in load_layers(result.adapter).items():
        expected = before[name].b if name == layer else torch.zeros_like(update.b)
        torch.testing.assert_close(update.b, expected)


def test_safe_lora_needs_the_model_before_alignment(train_inputs, tiny_model):
    with pytest.raises(ConfigError, match="unaligned_model"):
        METHODS["safe_lora"].check_settings({})
    result = train_weighted(train_inputs)
    other = {"unaligned_model": str(tiny_model("gpt2"))}
    with pytest.raises(ConfigError, match="the same layers"):
        safe_lora.edit(EditInputs(result.adapter, replace(train_inputs, method_settings=other)))


def test_what_costs_safety_is_dropped_and_made_up_for():
    """By hand: H = [[2, 1], [1, 4]], H⁻¹ = [[4, -1], [-1, 2]] / 7, so a column's loss is 7/8 or 7/4 of its square.

    With the update [2, 2] the losses are 3.5 and 7. A third of 10.5 keeps the first column; the second is then
    -H_12·2 / H_22 = -1/2, at which the layer's output on the risky prompts moves least. Less keeps nothing.
    """
    hessian, update = torch.tensor([[2.0, 1.0], [1.0, 4.0]]), LowRank(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0]]))
    half = kept_within(update, hessian, share=0.34)
    torch.testing.assert_close(half.b @ half.a, torch.tensor([[2.0, -0.5]]))
    whole, none = (kept_within(update, hessian, share=share) for share in (1.0, 0.3))
    torch.testing.assert_close(whole.b @ whole.a, torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(none.b @ none.a, torch.zeros(1, 2))
    outputs = [float(torch.tensor([2.0, x]) @ hessian @ torch.tensor([2.0, x])) for x in (-0.6, -0.5, -0.4, 0.0)]
    assert min(outputs) == outputs[1]


def test_inputs_of_a_layer_are_summed_over_tokens(train_inputs):
    """The first layer reads normed embeddings: its Gram matrix by hand, padding apart."""
    tools = train_inputs.tools
    rows = build_equal_rows(train_inputs.harmful_reference, tools.renderer)
    model = load_causal_lm(tools.model, frozen=True)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    ids = torch.cat([row.input_ids.long() for row in rows.rows])
    x = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids)).detach()
    torch.testing.assert_close(input_grams(model, rows, [name])[name], 2 * x.T @ x, rtol=1e-4, atol=1e-4)


def test_safe_delta_edits_an_adapter(train_inputs):
    result = train_weighted(train_inputs)
    before = load_layers(result.adapter)
    safe_delta.edit(EditInputs(result.adapter, replace(train_inputs, method_settings={"safety_loss": 1.0})))
    for name, update in load_layers(result.adapter).items():
        torch.testing.assert_close(update.a, before[name].a)
    safe_delta.edit(EditInputs(result.adapter, replace(train_inputs, method_settings={"safety_loss": 0.0})))
    assert all(not update.a.any() for update in load_layers(result.adapter).values())
