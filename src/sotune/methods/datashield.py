"""DataShield's shift feature: how far a row's completion moves the model's state towards compliance.

Zhang et al., *DataShield: Safety-degrading data filtering for LLM benign instruction fine-tuning* (2026,
https://arxiv.org/abs/2606.00160). At each layer, the compliance vector is the mean state of completions that comply
with harmful prompts less that of completions that refuse them, of length 1; the layer is the one with the largest
``vᵀ S_b v / vᵀ S_t v`` on standardized states (between-class over total scatter); a row's score is the projection of
its completion's mean state less that of its prompt's last token.

Released code has this difference as one of four types of projection, and gives a row that fails a score of 0 without a
word. Here it is the one type, failures raise, and the two sets are the harmful reference and safety pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sotune.methods.inputs import WeighInputs
from sotune.methods.layers import encode_sets
from sotune.methods.method import Method
from sotune.methods.pairs import safety_pairs
from sotune.methods.ranking import weights_by_rank

_MOST_PAIRS = 200


def weigh(inputs: WeighInputs) -> Tensor:
    """Returns weights by rank of the shift, the largest last, ``[n]``.

    Raises:
        ConfigError: There are no records or no model.
        DataError: There are no refusals.
    """
    records, tools = inputs.require_records("datashield"), inputs.require_tools("datashield")
    refusals = safety_pairs(tools, records.harmful_reference, most=_MOST_PAIRS)
    references = (records.harmful_reference, refusals)
    comply, refuse = (part.double() for part in encode_sets(references, tools, pooling="completion_mean"))
    layer = max(range(len(comply)), key=lambda i: compliance_aware_score(comply[i], refuse[i]))
    (shift,) = encode_sets([records.downstream], tools, pooling="completion_minus_prompt")
    return weights_by_rank(-(shift[layer].double() @ compliance_vector(comply[layer], refuse[layer])))


def compliance_vector(comply: Tensor, refuse: Tensor) -> Tensor:
    """Returns the difference of the means, of length 1, ``[d]``."""
    difference = comply.mean(0) - refuse.mean(0)
    unit: Tensor = difference / difference.norm().clamp_min(1e-12)
    return unit


def compliance_aware_score(comply: Tensor, refuse: Tensor) -> float:
    """Returns ``vᵀ S_b v / vᵀ S_t v`` on standardized states, in [0, 1]: the squared correlation of v·z and the class.

    Args:
        comply: ``[m_comply, d]``.
        refuse: ``[m_refuse, d]``.
    """
    direction, both = compliance_vector(comply, refuse), torch.cat([comply, refuse])
    projected = ((both - both.mean(0)) / both.std(0).clamp_min(1e-12)) @ direction
    first, second = projected[: len(comply)], projected[len(comply) :]
    between = len(first) * first.mean() ** 2 + len(second) * second.mean() ** 2  # the mean of all is 0
    return float(between / (projected**2).sum().clamp_min(1e-12))


METHODS = (
    Method(
        "datashield",
        "DataShield",
        citation="Zhang et al., DataShield: Safety-degrading data filtering for LLM instruction fine-tuning (2026)",
        link="https://arxiv.org/abs/2606.00160",
        weigher=weigh,
        needs=frozenset({"model"}),
    ),
)
