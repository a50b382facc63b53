"""Push-pull transport under the paper's ground cost, two of its limits, and the rows of Table 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sotune.methods.method import Method
from sotune.methods.push_pull import PAPER, weigh

_COSINE: Mapping[str, Any] = {"cost": "cosine"}
SOT = Method(
    "sot", "sotune, cosine cost", "ours", PAPER, weigher=weigh, loss_weight_rule="proportional", changes=_COSINE
)


def _with(name: str, title: str, **changes: Any) -> Method:
    return replace(SOT, name=name, title=title, changes={**_COSINE, **changes})


METHODS = (
    SOT,
    _with("sot_potentials", "sotune, first gradient", solver="one_step"),
    # The density of a reference at z is Σ_j b_j exp(−C(z, z_j)/ε): transport with free columns. With λ = ½ both
    # densities have the same exponent, so that the weights are a power of their ratio, safe to harmful.
    replace(
        _with("kernel_density_ratio", "kernel density ratio", solver="one_step", reference_relaxation=0.0),
        kind="rival",
        citation="",
        loss_weight_rule="uniform",
    ),
    _with("pull_only", "sotune, pull only", push_strength=0.0),
    _with("push_only", "sotune, push only", push_strength=1.0),
    # Top-K without reweighting, and reweighting without Top-K.
    replace(SOT, name="sot_uniform", title="sotune, equal loss weights", loss_weight_rule="uniform"),
    replace(SOT, name="sot_all", title="sotune, all rows", drops_none=True),
)
