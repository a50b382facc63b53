"""The transport problem, how it is solved, and what is kept back to measure it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_serializer

from sotune.settings.schema import Bytes, StageSettings


class WeightSettings(StageSettings):
    """Weights: the transport problem and how it is solved."""

    cost: Literal["adaptive", "cosine"] = Field(
        default="adaptive", description="Ground cost: learned from the data, or cosine distance (paper, §4.1)."
    )
    epsilon: float = Field(default=0.1, gt=0, description="Entropic strength, in units of cost (paper, §5.1).")
    push_strength: float = Field(
        default=0.5, ge=0, le=1, description="The paper's lambda (§5.1): 0 pulls only, 1 pushes only."
    )
    safe_strength: float = Field(
        default=1.0,
        ge=0,
        description="Pull of the safe reference, where there is one, beside the anchor's of 1; 0 leaves it out.",
    )
    solver: Literal["mirror", "cccp", "one_step", "sharp"] = Field(
        default="mirror",
        description="mirror, cccp: to stationarity; one_step: first gradient; sharp: the paper's (Alg. 1).",
    )
    stretch: float = Field(
        default=2.0,
        ge=0,
        description="How far adaptive stretches the space along the direction of harm; 0: not at all.",
    )
    answer_from: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Where in a representation the answer begins: 0, all of it; 0.5, its second half. Default: as the "
        "encoder reads.",
    )
    reference_relaxation: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=True,
        description="Penalty on unequal use of reference rows; inf: equal use. Default: 0 (adaptive), inf (cosine).",
    )
    effective_sample_size: float = Field(
        default=0.9,
        gt=0,
        lt=1,
        description="How even the weights are; tau follows from it. About 0.9 ranks best on real text.",
    )
    tau: float | None = Field(
        default=None, gt=0, description="Strength of KL(w || uniform), instead of effective_sample_size."
    )
    stationarity_tolerance: float = Field(
        default=1e-5, gt=0, description="Largest log-weight residual that counts as solved."
    )
    marginal_tolerance: float = Field(
        default=1e-5, gt=0, description="L1 column error to which each transport is solved."
    )
    max_outer_steps: int = Field(default=200, ge=1, description="Limit of outer steps; for sharp the exact number.")
    max_iters: int = Field(
        default=2000, ge=1, description="Limit of Sinkhorn iterations, per transport and outer step."
    )
    max_memory: Bytes | None = Field(
        default=None,
        ge=1,
        description="Memory for the solver's kernels, like 4GB; larger problems are streamed. Default: half of RAM.",
    )
    solver_device: str = Field(
        default="auto",
        description="Where weights are solved: cpu, cuda, cuda:1. auto: the run's device where it can compute in "
        "float64 (MPS cannot), and kernels that fit into RAM alone stay there; for rows in Python, where they lie.",
    )
    streamed_tolerance: float = Field(
        default=1e-3, gt=0, description="L1 column error at which a streamed solution stops."
    )
    logit_optimizer: Literal["sgd", "adam"] = Field(
        default="sgd", description="Steps of sharp: plain gradient steps, or Adam's; the paper names neither."
    )
    logit_learning_rate: float = Field(
        default=0.1, gt=0, description="Step of sharp on the logits: per unit of cost with sgd, per step with adam."
    )

    @field_serializer("reference_relaxation", when_used="json")
    def _json_number(self, value: float | None) -> float | str | None:
        return "inf" if value == math.inf else value  # JSON has no infinity


class SentinelSettings(StageSettings):
    """Sentinels: harmful rows that are held back, to measure what passes and perhaps to choose settings."""

    sentinels: Literal["measure", "tune", "off"] = Field(
        default="measure",
        description="measure: hold harmful rows back and measure what passes; tune: also let them choose epsilon, "
        "push_strength, stretch and reference_relaxation, unless you set them; off: weigh with the whole reference.",
    )
    tuning_share: float = Field(
        default=0.2, gt=0, lt=0.5, description="Share of the harmful reference's prompts held back to choose settings."
    )
    measuring_share: float = Field(
        default=0.2,
        gt=0,
        lt=0.5,
        description="Share of its prompts held back to measure what passes, and used for nothing else.",
    )
    prompt_control: bool = Field(
        default=True, description="Weigh a sample of the rows by their prompts alone too, to show what the answers add."
    )


TUNED: dict[str, tuple[float, ...]] = {
    "epsilon": (0.1, 0.2, 0.4),
    "push_strength": (0.4, 0.5, 0.6),
    "reference_relaxation": (0.0, 0.1, float("inf")),
    "stretch": (2.0, 4.0),
}
"""What the tuning fold tries: the defaults and smoother settings. Sharper ones, epsilon 0.05 or stretch 1, win on the
tuning fold by fitting harm like the reference's, and lose where the data's harm differs (docs/promise.md)."""
