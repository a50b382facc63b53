"""SAFT: harm as the direction in which the data itself varies most.

Choi et al., *Safety-aware fine-tuning of large language models* (2024, https://arxiv.org/abs/2410.10014): with Z the
last-token states of the n rows at one layer and v_1 … v_k its first right singular vectors, a row's score is
``mean_j (z_i·v_j)²`` and high scores are dropped. Threshold, k and layer come from a small labeled validation set.

There is no released code. The same group's HaloScope loops over k = 1 … 10, layers and the *sign* by AUROC on labeled
data, which we do; but it centers for the singular vectors and projects what is not centered, and averages projections
before it squares them, which depends on the arbitrary sign of each vector. Here the mean is of squares, and both or
neither are centered: ``saft`` is uncentered as in the paper, where v_1 is mostly the mean; ``saft_centered`` is the
variant. The validation set is the safe anchor and the harmful reference; the threshold gives way to the K lowest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.layers import encode_sets
from sotune.methods.method import Method
from sotune.methods.ranking import weights_by_rank
from sotune.weights.separation import auroc

_MOST_DIRECTIONS = 10


@dataclass(frozen=True)
class Choice:
    """What the validation set chose.

    Attributes:
        layer: Index among the layers that were offered.
        k: How many directions.
        harm_is_high: Whether harmful rows score high.
        auroc: How well it tells the validation set's halves apart, in [½, 1].
        scores: ``mean_j (z_i·v_j)²`` of the downstream rows, ``[n]``.
    """

    layer: int
    k: int
    harm_is_high: bool
    auroc: float
    scores: Tensor


def weigh(inputs: WeighInputs, *, center: bool = False) -> Tensor:
    """Returns weights by rank of the score, which may be about the mean, ``[n]``."""
    choice = choose(*_layers(inputs), center=center)
    return weights_by_rank(-choice.scores if choice.harm_is_high else choice.scores)


def choose(downstream: Tensor, safe: Tensor, harmful: Tensor, *, center: bool) -> Choice:
    """Chooses layer, k and sign by AUROC on the two references; the first of equals.

    Args:
        downstream: ``[layers, n, d]``.
        safe: ``[layers, m_safe, d]``.
        harmful: ``[layers, m_harmful, d]``.
        center: Whether the rows' mean is taken off, from the references too.
    """
    best: Choice | None = None
    for layer, (z, s, h) in enumerate(zip(downstream.double(), safe.double(), harmful.double(), strict=True)):
        mean = z.mean(0) if center else torch.zeros_like(z[0])
        # The right singular vectors; eigh sorts upwards, and the width is smaller than most data sets.
        directions = torch.linalg.eigh((z - mean).T @ (z - mean)).eigenvectors.T.flip(0)[:_MOST_DIRECTIONS]
        squares = [((part - mean) @ directions.T) ** 2 for part in (z, s, h)]
        for k in range(1, len(directions) + 1):
            scores, of_safe, of_harmful = (part[:, :k].mean(1) for part in squares)
            value = auroc(of_harmful, of_safe)
            if best is None or max(value, 1 - value) > best.auroc + 1e-12:
                best = Choice(layer, k, value >= 0.5, max(value, 1 - value), scores)
    assert best is not None  # there is at least one layer and one direction
    return best


def _layers(inputs: WeighInputs) -> tuple[Tensor, ...]:
    """Returns the states at every layer where a model is known, else the representations that were given."""
    if inputs.tools is None or inputs.records is None:
        return inputs.rows[None], inputs.pull[None], inputs.harmful_reference[None]
    sets = (inputs.records.downstream, inputs.records.pull, inputs.records.harmful_reference)
    return encode_sets(sets, inputs.tools, pooling="last")


SAFT = Method(
    "saft",
    "SAFT",
    citation="Choi et al., Safety-aware fine-tuning of large language models (2024)",
    link="https://arxiv.org/abs/2410.10014",
    weigher=weigh,
    needs=frozenset({"model"}),
)
METHODS = (SAFT, replace(SAFT, name="saft_centered", title="SAFT, centered", weigher=partial(weigh, center=True)))
