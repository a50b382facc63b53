"""How much memory training will take, before any weights are loaded.

Every part is counted from the model itself: a model of fake tensors in the configuration's shape gives its parameters,
and what one of its layers keeps for the backward pass. Nothing is allocated.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from sotune.settings import TrainingSettings
from sotune.training.loss import CHUNK_ELEMENTS
from sotune.training.targets import resolve_target_modules

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a weight: 4, a scale of 8 for each 64, and one of 32 for each 256 of these (QLoRA's double quantization)."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that training takes on one device. The library's own context, about half a GiB on CUDA, is not in it.

    Attributes:
        weights: The model's.
        adapter: What is trained beside it.
        gradients: Of what is trained.
        optimizer: Adam's two moments.
        activations: What the layers keep for the backward pass, at the most tokens of a micro-batch.
        logits: The output layer's part that is held at a time.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(asdict(self).values())


def estimate(
    config: Any, settings: TrainingSettings, *, half: bool = True, tokens: int | None = None
) -> MemoryEstimate:
    """Estimates the peak memory of training.

    Args:
        config: The model's, of transformers.
        settings: How it is trained.
        half: Whether the device computes in bfloat16.
        tokens: Of a micro-batch, padding included; by default the most that the settings allow.

    Raises:
        ConfigError: The model lacks the target modules.
    """
    if tokens is None:
        tokens = settings.max_tokens_per_batch or settings.max_length * settings.per_device_train_batch_size
    size, full = 2 if half else 4, settings.finetuning_type == "full"
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng():
        model = _make(config, torch.bfloat16 if half else torch.float32)
        adapted = [] if full else resolve_target_modules(model, settings.target_modules).layers
        n_trained = _n_weights(model) if full else sum(_adapter_size(layer, settings) for layer in adapted)
        kept = _kept_bytes(model, tokens, half)
    # An adapter keeps its input in the type that is computed in, and what comes between its two matrices.
    kept += size * tokens * sum(layer.weight.numel() // _width_out(layer) + settings.r for layer in adapted)
    text = config.get_text_config()
    if settings.gradient_checkpointing:
        kept = kept // text.num_hidden_layers + size * tokens * text.hidden_size * text.num_hidden_layers
    return MemoryEstimate(
        weights=_weight_bytes(model, settings, 4 if full else size),
        adapter=0 if full else 4 * n_trained,
        gradients=4 * n_trained,
        optimizer=8 * n_trained,
        activations=kept,
        logits=_logit_bytes(text, tokens, size),
    )


def _make(config: Any, dtype: torch.dtype) -> Any:
    config = copy.deepcopy(config)
    config.get_text_config().use_cache = False
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def _n_weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _adapter_size(layer: Any, settings: TrainingSettings) -> int:
    out = _width_out(layer)
    magnitude = out if settings.finetuning_type == "dora" else 0
    return int(settings.r * (layer.weight.numel() // out + out)) + magnitude


def _width_out(layer: Any) -> int:
    return int(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])


def _weight_bytes(model: Any, settings: TrainingSettings, size: int) -> int:
    n_weights, head = _n_weights(model), model.get_output_embeddings()
    if settings.quantization == "none":
        return n_weights * size
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    # One layer at a time is held as it is computed with.
    return math.ceil(sum(linear) * NF4_BITS / 8) + (n_weights - sum(linear) + max(linear)) * size


def _kept_bytes(model: Any, tokens: int, half: bool) -> int:
    """Returns what the layers keep of a padded batch for the backward pass, when their own weights are frozen."""
    model.requires_grad_(False)
    model.enable_input_require_grads()
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor  # held, so that no storage takes its place
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        model.get_decoder()(input_ids=torch.zeros(1, tokens, dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _logit_bytes(text: Any, tokens: int, size: int) -> int:
    """Returns what the output layer holds: a part's logits in float32, in half precision twice too; a state a token."""
    at_once = min(CHUNK_ELEMENTS, tokens * text.vocab_size)
    return int(at_once * (4 if size == 4 else 8) + tokens * text.hidden_size * size)
