"""Training with one learned logit a row: the single loop that SEAL and BDS share.

The rows' weights are ``w = n·softmax(z)``. Each step draws a batch of trusted rows and one of downstream rows and takes

    θ ← θ − ∇_θ [ s·mean(ℓ_trusted) + d·mean(w_i·ℓ_i) ],      z ← z − ∇_z mean(w_i·stopgrad ℓ_i)

where s and d may change from epoch to epoch. The shorter set is cycled, so that a small trusted set leaves no
downstream row unvisited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import get_scheduler

from sotune.models import ModelSpec, trained_parameters
from sotune.records import Record
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training.loss import compute_row_losses
from sotune.training.output_layer import compute_model_losses
from sotune.training.progress import OnStep, TrainStep, rows_per_step
from sotune.training.trained_model import isolated_randomness, load_with_adapter
from sotune.training.training_rows import (
    LOSS_WEIGHT,
    RowBatches,
    TrainingRows,
    build_equal_rows,
    build_training_rows,
)

_BETAS = (0.9, 0.95)  # of Adam on the logits, in the code of both methods


@dataclass(frozen=True)
class BilevelSettings:
    """What distinguishes one method of this kind from another.

    Attributes:
        n_steps: Steps of θ and z, one each.
        trusted_strength: Epoch, counted from 0, to s.
        downstream_strength: Epoch to d.
        selector: Optimizer of the logits.
        selector_learning_rate: Its rate.
        initial_logit: z at the start.
        schedule: Of θ's learning rate; cosine has the settings' warm-up.
        clip: The gradient of θ is scaled down to this norm; 0 leaves it as it is.
    """

    n_steps: int
    trusted_strength: Callable[[int], float]
    downstream_strength: Callable[[int], float]
    selector: Literal["adam", "sgd"]
    selector_learning_rate: float
    initial_logit: float
    schedule: Literal["constant", "cosine"]
    clip: float


@dataclass(frozen=True)
class BilevelResult:
    """What the loop leaves behind.

    Attributes:
        logits: By id, one for each downstream row that can be trained on.
        model: The trained model with its adapter.
        rows: The downstream rows.
        steps: One entry for each step.
    """

    logits: Mapping[str, float]
    model: Any
    rows: TrainingRows
    steps: Sequence[TrainStep]


def selector_weights(logits: Tensor) -> Tensor:
    """Returns ``n·softmax(z)``, mean 1, ``[n]``."""
    return torch.softmax(logits, 0) * len(logits)


def train_bilevel(
    downstream: Sequence[Record],
    loss_weights: Mapping[str, float],
    trusted: Sequence[Record],
    *,
    model: ModelSpec,
    training: TrainingSettings,
    settings: BilevelSettings,
    on_step: OnStep | None = None,
) -> BilevelResult:
    """Runs the loop. It has no checkpoints: a run that was stopped starts over, and ends with the same result.

    Args:
        downstream: Rows to weigh, ids unique.
        loss_weights: A fixed factor of each row's loss, mean 1.
        trusted: Trusted rows.
        model: The base model.
        training: LoRA's shape, batch size, learning rate, template and seed.
        settings: What is particular to the method.
        on_step: Called after each step.

    Raises:
        DataError: One of the sets has no row to train on.
        SotuneError: The loop diverged.
    """
    renderer = load_renderer(model, training)
    rows, trusted_rows = build_training_rows(downstream, loss_weights, renderer), build_equal_rows(trusted, renderer)
    with isolated_randomness():
        network = load_with_adapter(model, training)
        loop = _Loop(network, RowBatches(rows.rows, trusted_rows.collate), trusted_rows, training, settings)
        loop.run(on_step)
    ids = [row.id for row in rows.rows]
    return BilevelResult(dict(zip(ids, loop.logits.tolist(), strict=True)), network, rows, loop.steps)


class _Loop:
    def __init__(
        self,
        network: Any,
        rows: RowBatches,
        trusted: RowBatches,
        training: TrainingSettings,
        settings: BilevelSettings,
    ) -> None:
        self._network, self._rows, self._trusted = network, rows, trusted
        self._training, self._settings = training, settings
        self.steps: list[TrainStep] = []
        self._parameters = list(trained_parameters(network).values())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=training.learning_rate, weight_decay=0.0)
        warmup = math.ceil(training.warmup_ratio * settings.n_steps)
        self._schedule = get_scheduler(settings.schedule, self._optimizer, warmup, settings.n_steps)
        self.logits = torch.full((len(rows.rows),), settings.initial_logit, dtype=torch.float64)
        self._selector: torch.optim.Optimizer = (
            torch.optim.Adam([self.logits], lr=settings.selector_learning_rate, betas=_BETAS)
            if settings.selector == "adam"
            else torch.optim.SGD([self.logits], lr=settings.selector_learning_rate)
        )

    def run(self, on_step: OnStep | None) -> None:
        size, seed = rows_per_step(self._training), self._training.seed
        own = _batches(len(self._rows.rows), size, seed=seed)
        others = _batches(len(self._trusted.rows), size, seed=seed + 1)
        per_epoch = math.ceil(len(self._rows.rows) / size)
        for step in range(self._settings.n_steps):
            rate = self._optimizer.param_groups[0]["lr"]
            loss = self._step(next(own), next(others), step // per_epoch)
            norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip or math.inf))
            self.steps.append(TrainStep(step + 1, self._settings.n_steps, loss, rate, norm))
            self.steps[-1].check(self._training.learning_rate)
            self._optimizer.step()
            self._schedule.step()
            if on_step is not None:
                on_step(self.steps[-1])

    def _step(self, positions: list[int], trusted: list[int], epoch: int) -> float:
        """Sets the gradient of θ, takes a step of z and returns θ's loss."""
        s, d = self._settings.trusted_strength(epoch), self._settings.downstream_strength(epoch)
        self._optimizer.zero_grad()
        weights = selector_weights(self.logits)[positions]
        losses = self._learn(self._rows, positions, d * weights)
        equal = torch.full((len(trusted),), s, dtype=torch.float64)
        of_trusted = self._learn(self._trusted, trusted, equal)
        update_selector(self._selector, self.logits, positions, losses)
        return float((d * weights * losses).mean() + (equal * of_trusted).mean())

    def _learn(self, rows: RowBatches, positions: list[int], factors: Tensor) -> Tensor:
        """Adds the gradient of ``mean(factor·ℓ)`` and returns ℓ, each row's loss times its fixed weight, ``[rows]``."""
        learns = bool((factors != 0).any())  # SEAL's first epoch does not learn from the downstream rows at all
        size = self._training.per_device_train_batch_size
        losses = []
        for start in range(0, len(positions), size):
            with torch.set_grad_enabled(learns):
                part = self._losses(rows.take(positions[start : start + size], self._network.device))
                if learns:
                    share = factors[start : start + size].to(part)
                    torch.autograd.backward((share * part).sum() / len(positions))
            losses.append(part.detach().double().cpu())
        return torch.cat(losses)

    def _losses(self, batch: dict[str, Tensor]) -> Tensor:
        labels, fixed = batch.pop("labels"), batch.pop(LOSS_WEIGHT)
        half = self._network.dtype == torch.bfloat16
        with torch.autocast(self._network.device.type, dtype=torch.bfloat16, enabled=half):
            losses = compute_model_losses(self._network, batch, labels)
        return fixed * compute_row_losses(losses, labels)


def update_selector(optimizer: torch.optim.Optimizer, logits: Tensor, positions: Sequence[int], losses: Tensor) -> None:
    """Takes one step of z on ``mean(w_i·ℓ_i)`` over a batch, the losses held fixed.

    By hand, with S the sum of ``w_i·ℓ_i`` over the batch of B rows and p the softmax of z:
    ``∂/∂z_j = (w_j·ℓ_j·[j in batch] − p_j·S) / B``.

    Args:
        optimizer: Holds the logits.
        logits: z, ``[n]``; changed.
        positions: The rows of the batch among the n.
        losses: Their losses, ``[B]``.
    """
    share = torch.softmax(logits, 0)
    weighted = share[list(positions)] * len(logits) * losses
    gradient = -share * weighted.sum()
    gradient.index_add_(0, torch.as_tensor(list(positions)), weighted)
    logits.grad = gradient / len(positions)
    optimizer.step()


def _batches(n: int, size: int, *, seed: int) -> Iterator[list[int]]:
    """Yields batches without end, each pass in an order of its own; the last of a pass may be short."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n, generator=generator).tolist()
        for start in range(0, n, size):
            yield order[start : start + size]
