"""SaLoRA: the adapter writes only outside the subspace that safe answers use.

Li et al., *SaLoRA: Safety-alignment preserved low-rank adaptation* (ICLR 2025, https://arxiv.org/abs/2501.01765). For
an adapted layer W with inputs X_s on the tokens of safe answers, V_s are the first right singular vectors of
``X_s Wᵀ`` and ``C = I − V_s V_sᵀ`` is fixed. The adapter starts at ``B = V_t V_tᵀ U √S``, ``A = √S Vᵀ`` with
``W ≈ U S Vᵀ`` of rank r and V_t the like of V_s on samples of the task; W becomes ``W − C B₀ A₀``, the layer computes
``W'x + C B A x``, and A and B are trained.

Released code patches PEFT and edits the base weights, so that its adapter is none by itself; it assumes two targets and
32 layers, and packs texts into blocks of 128 tokens with loss on prompts. Here the base model is untouched: what is
saved is one plain adapter of rank 2r, ``[C B, −C B₀]·[A; A₀]``. Rows are trained as in all methods, with the budget's
shape, rate and steps (theirs: r = α = 16, 1e-4, one epoch). Their 128 samples of each kind are ours: safety pairs, and
the first rows of the data. The 32 safe directions are at most a quarter of a layer's width (ours, for small models).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sotune.methods.folding import LowRank, beside, rewrite
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import safety_pairs
from sotune.models import evaluating
from sotune.training import TrainResult
from sotune.training.change import StepChange
from sotune.training.training_rows import RowBatches, build_equal_rows

_SAMPLES, _DIRECTIONS, _WIDTH_SHARE, _SVD_ITERATIONS = 128, 32, 4, 30
_BATCH = 16


@dataclass(frozen=True)
class FixedParts:
    """What is fixed about one layer.

    Attributes:
        c: The projection C, ``[d_out, d_out]``.
        start: A₀ and B₀.
    """

    c: Tensor
    start: LowRank


def train(inputs: TrainInputs) -> TrainResult:
    """Trains A and B, and saves the two products as one adapter.

    Raises:
        DataError: There are no refusals or no rows to train on.
        SotuneError: Training diverged.
    """
    change = projected_adapter(inputs)
    result = train_weighted(inputs, change=change)
    change.fold(result.adapter)
    return result


def projected_adapter(inputs: TrainInputs) -> ProjectedAdapter:
    """Returns the change with up to 128 safety pairs and as many rows of the data.

    Raises:
        DataError: There are no refusals or no rows to train on.
    """
    tools = inputs.tools
    pairs = safety_pairs(tools, inputs.harmful_reference, most=_SAMPLES)
    sets = (pairs, inputs.records[:_SAMPLES])
    return ProjectedAdapter(*(build_equal_rows(rows, tools.renderer) for rows in sets))


class ProjectedAdapter(StepChange):
    """Puts C behind every B, and takes ``C B₀ A₀`` off every layer, by hooks.

    Args:
        safe: Safe answers.
        task: Samples of the task.
    """

    name = "salora"

    def __init__(self, safe: RowBatches, task: RowBatches) -> None:
        self._safe, self._task = safe, task
        self.parts: dict[str, FixedParts] = {}

    def start(self, model: Any) -> None:
        """Finds the fixed parts of each layer, sets A and B to their start and attaches the hooks."""
        layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
        safe, task = (self._second_moments(model, layers, rows) for rows in (self._safe, self._task))
        for name, layer in layers.items():
            weight = layer.get_base_layer().weight.detach().double()
            weight = weight.T if layer.fan_in_fan_out else weight
            parts = fixed_parts(weight, safe[name], task[name], rank=layer.r["default"])
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            parts = FixedParts(parts.c.to(a), LowRank(parts.start.a.to(a), parts.start.b.to(a)))
            self.parts[name] = parts
            with torch.no_grad():
                a.copy_(parts.start.a)
                b.copy_(parts.start.b)
            _attach(layer, parts)

    def fold(self, adapter: Path) -> None:
        """Makes a saved adapter one that needs no hook."""

        def folded(name: str, update: LowRank) -> LowRank:
            parts = self.parts[name]
            c, a0, b0 = (part.cpu() for part in (parts.c, parts.start.a, parts.start.b))
            return beside(LowRank(update.a, c @ update.b), LowRank(a0, -c @ b0))

        rewrite(adapter, folded)

    def _second_moments(self, model: Any, layers: dict[str, Any], rows: RowBatches) -> dict[str, Tensor]:
        """Returns ``(X Wᵀ)ᵀ(X Wᵀ)`` of each layer over the tokens of completions, float64, ``[d_out, d_out]``."""
        moments: dict[str, Tensor] = {}
        learned = torch.empty(0)

        def collect(name: str, layer: Any) -> Any:
            def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
                bias = layer.get_base_layer().bias
                y = (output if bias is None else output - bias)[learned].double()
                moments[name] = moments.get(name, 0) + y.T @ y

            return layer.get_base_layer().register_forward_hook(hook)

        hooks = [collect(name, layer) for name, layer in layers.items()]
        try:
            with evaluating(model):
                for start in range(0, len(rows.rows), _BATCH):
                    batch = rows.take(range(start, min(start + _BATCH, len(rows.rows))), model.device)
                    learned = batch["labels"] >= 0
                    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_to_keep=1)
        finally:
            for hook in hooks:
                hook.remove()
        return moments


def fixed_parts(weight: Tensor, safe: Tensor, task: Tensor, *, rank: int) -> FixedParts:
    """Computes C, A₀ and B₀ of one layer.

    Args:
        weight: W, ``[d_out, d_in]``, float64.
        safe: Second moments of the layer's outputs on safe answers, ``[d_out, d_out]``; their eigenvectors are the
            right singular vectors of ``X_s Wᵀ``.
        task: The same on samples of the task.
        rank: r.
    """
    width = len(weight)
    k = max(1, min(_DIRECTIONS, width // _WIDTH_SHARE))
    # eigh sorts upwards.
    v_safe, v_task = (torch.linalg.eigh(moments).eigenvectors[:, -k:] for moments in (safe, task))
    c = torch.eye(width, dtype=weight.dtype, device=weight.device) - v_safe @ v_safe.T
    u, s, v = torch.svd_lowrank(weight, q=min(rank, *weight.shape), niter=_SVD_ITERATIONS)
    b, a = v_task @ (v_task.T @ (u * s.sqrt())), (v * s.sqrt()).T
    missing = rank - len(a)  # of a layer narrower than the rank
    return FixedParts(
        c,
        LowRank(
            torch.nn.functional.pad(a, (0, 0, 0, missing)),
            torch.nn.functional.pad(b, (0, missing)),
        ),
    )


def _attach(layer: Any, parts: FixedParts) -> None:
    c, (a0, b0) = parts.c, parts.start
    scaling, fixed_b = layer.scaling["default"], c @ b0

    def project(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        projected: Tensor = output @ c.to(output).T
        return projected

    def subtract(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        fixed: Tensor = (inputs[0].to(a0) @ a0.T) @ fixed_b.T
        difference: Tensor = output - (scaling * fixed).to(output)
        return difference

    layer.lora_B["default"].register_forward_hook(project)
    layer.register_forward_hook(subtract)


METHODS = (
    Method(
        "salora",
        "SaLoRA",
        citation="Li et al., SaLoRA: Safety-alignment preserved low-rank adaptation (ICLR 2025)",
        link="https://arxiv.org/abs/2501.01765",
        trainer=train,
    ),
)
