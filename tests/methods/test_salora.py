from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from sotune.methods.folding import load_layers
from sotune.methods.salora import fixed_parts, projected_adapter, train
from sotune.models import load_causal_lm, load_tokenizer
from sotune.training.trained_model import load_with_adapter


@pytest.fixture
def change(train_inputs):
    return projected_adapter(train_inputs)


def logits(model, spec):
    ids = load_tokenizer(spec)("Add 3 and 4", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_c_is_the_projection_off_the_safe_directions():
    generator = torch.Generator().manual_seed(0)
    outputs, task = (torch.randn(200, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    outputs[:, :10] *= 5
    left, right = (torch.linalg.qr(torch.randn(k, 24, generator=generator).double()).Q for k in (40, 24))
    weight = left @ torch.diag(0.5 ** torch.arange(24).double()) @ right.T
    parts = fixed_parts(weight, outputs.T @ outputs, task.T @ task, rank=6)
    v_safe = torch.linalg.svd(outputs, full_matrices=False).Vh[:10].T
    assert (parts.c @ v_safe).abs().max() < 1e-10
    torch.testing.assert_close(parts.c @ parts.c, parts.c)
    assert float(parts.c.trace()) == pytest.approx(30)
    v_task = torch.linalg.svd(task, full_matrices=False).Vh[:10].T
    u, s, vh = torch.linalg.svd(weight)
    truncated = u[:, :6] @ torch.diag(s[:6]) @ vh[:6]
    torch.testing.assert_close(parts.start.b @ parts.start.a, v_task @ v_task.T @ truncated, rtol=1e-6, atol=1e-6)


def test_a_layer_narrower_than_the_rank_is_padded():
    moments = torch.eye(4, dtype=torch.float64)
    parts = fixed_parts(torch.ones(4, 3, dtype=torch.float64), moments, moments, rank=8)
    assert parts.start.a.shape == (8, 3)
    assert parts.start.b.shape == (4, 8)


def test_the_model_starts_as_the_base_model_and_follows_the_formula(change, train_inputs):
    """W'x + C B A x with W' = W − C B₀ A₀, layer by layer, after A and B have moved."""
    spec, settings = train_inputs.tools.model, train_inputs.tools.training
    base = logits(load_causal_lm(spec, frozen=True), spec)
    with torch.random.fork_rng(devices=[]):
        model = load_with_adapter(spec, settings)
    change.start(model)
    torch.testing.assert_close(logits(model, spec), base, rtol=1e-4, atol=1e-4)
    name, layer = next((n, m) for n, m in model.named_modules() if hasattr(m, "lora_A"))
    parts, scaling = change.parts[name], layer.scaling["default"]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        a.add_(torch.randn(a.shape, generator=generator))
        b.add_(torch.randn(b.shape, generator=generator))
        x = torch.randn(5, a.shape[1], generator=generator)
        w = layer.get_base_layer().weight - scaling * parts.c @ parts.start.b @ parts.start.a
        torch.testing.assert_close(layer(x), x @ (w + scaling * parts.c @ b @ a).T, rtol=1e-4, atol=1e-4)


def test_the_folded_adapter_writes_nothing_into_the_safe_directions(change, train_inputs, tmp_path):
    spec, settings = train_inputs.tools.model, train_inputs.tools.training
    with torch.random.fork_rng(devices=[]):
        model = load_with_adapter(spec, settings)
    change.start(model)
    result = train(replace(train_inputs, output_dir=tmp_path / "salora"))
    layers = load_layers(result.adapter)
    assert layers.keys() == change.parts.keys()
    for name, update in layers.items():
        written = (update.b @ update.a).double()
        assert written.norm() > 1e-2
        outside = change.parts[name].c.double() @ written
        assert (written - outside).norm() < 1e-5 * written.norm() + 1e-6


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_the_folded_adapter_is_the_trained_model(train_inputs, tiny_model, architecture, tmp_path, monkeypatch):
    """What training ended with, hooks and all, is what PEFT loads; also where weights are stored transposed."""
    from sotune.methods import salora

    spec = replace(train_inputs.tools.model, name=str(tiny_model(architecture)))
    train_inputs = replace(train_inputs, tools=replace(train_inputs.tools, model=spec))

    trained = {}
    fold = salora.ProjectedAdapter.fold

    def keeping(self, adapter):
        trained["before"] = logits(self.model.eval(), train_inputs.tools.model)
        fold(self, adapter)

    start = salora.ProjectedAdapter.start

    def noting(self, model):
        self.model = model
        start(self, model)

    monkeypatch.setattr(salora.ProjectedAdapter, "fold", keeping)
    monkeypatch.setattr(salora.ProjectedAdapter, "start", noting)
    result = train(replace(train_inputs, output_dir=tmp_path / "salora"))
    base = load_causal_lm(train_inputs.tools.model, frozen=True)
    before = logits(base, train_inputs.tools.model)
    after = logits(PeftModel.from_pretrained(base, result.adapter), train_inputs.tools.model)
    torch.testing.assert_close(after, trained["before"], rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 1e-3
