"""LARF: mean cosine to harm less mean cosine to safety, at a layer that is sensitive to safety.

Li et al., *Layer-aware representation filtering* (EMNLP 2025, https://arxiv.org/abs/2507.18631).

The paper finds its layer by scaling each layer's parameters and counting how refusals change, once for each model; its
released code has the layer as an argument (14 for Llama-3.1-8B-Instruct) and scores by the mean of the 100 largest of
100 sorted differences, which is the plain mean. Here the layer is the one at which the same score tells the two
references apart best, each row measured against the others (leave-one-out): the distance of the two means in units of
the spread. `mean_cosine` is the same score at the last layer.
"""

from __future__ import annotations

from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.layers import encode_sets
from sotune.methods.method import Method
from sotune.transport.cost import normalize_rows


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns ``(2 + mean cos(z, safe) − mean cos(z, harmful)) / 4`` at the chosen layer, in [0, 1], ``[n]``.

    Raises:
        ConfigError: There are no records or no model.
    """
    records, tools = inputs.require_records("larf"), inputs.require_tools("larf")
    sets = (records.downstream, records.pull, records.harmful_reference)
    downstream, safe, harmful = (
        normalize_rows(part.double().flatten(0, 1)).view(part.shape)
        for part in encode_sets(sets, tools, pooling="last")
    )
    layer = max(range(len(safe)), key=lambda i: separation(safe[i], harmful[i]))
    return (2 + downstream[layer] @ (safe[layer].mean(0) - harmful[layer].mean(0))) / 4


def separation(safe: Tensor, harmful: Tensor) -> float:
    """Returns how far the leave-one-out scores of two sets of unit rows lie apart, in units of their spread.

    Args:
        safe: ``[m_safe, d]``, at least two rows.
        harmful: ``[m_harmful, d]``, at least two rows.
    """
    of_safe = _mean_of_others(safe) - safe @ harmful.mean(0)
    of_harmful = harmful @ safe.mean(0) - _mean_of_others(harmful)
    spread = (of_safe.var(correction=0) + of_harmful.var(correction=0)).sqrt()
    return float((of_safe.mean() - of_harmful.mean()) / spread.clamp_min(1e-12))


def _mean_of_others(z: Tensor) -> Tensor:
    """Returns each unit row's mean cosine to the other rows, ``[m]``."""
    return (z @ z.sum(0) - 1) / max(1, len(z) - 1)


METHODS = (
    Method(
        "larf",
        "LARF",
        citation="Li et al., Layer-aware representation filtering (EMNLP 2025)",
        link="https://arxiv.org/abs/2507.18631",
        weigher=weigh,
        needs=frozenset({"model"}),
    ),
)
