"""The figure by which representations are chosen."""

import itertools

import pytest
import torch
from sklearn.metrics import roc_auc_score

from sotune.errors import DataError
from sotune.weights import held_out_contrast, held_out_separation
from sotune.weights.separation import auroc


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def measured(shift, *, harmful_share=0.0, n=300, m_safe=30, m_harmful=60, prompts=None, n_folds=5, **changes):
    """Separation of Gaussian clouds whose harmful rows are shifted along one axis."""
    draw = generator(1)
    axis = torch.zeros(8)
    axis[0] = shift
    downstream, safe, harmful = (torch.randn(k, 8, generator=draw) for k in (n, m_safe, m_harmful))
    downstream[: int(harmful_share * n)] += axis
    prompts = {"safe_prompts": range(m_safe), "harmful_prompts": range(m_harmful), **(prompts or {})}
    sets = {"downstream": downstream, "safe_anchor": safe, "harmful_reference": harmful + axis, **changes}
    return held_out_separation(**sets, **prompts, n_folds=n_folds, generator=generator())


@pytest.mark.parametrize("seed", range(3))
def test_auroc_counts_pairs(seed):
    draw = generator(seed)
    positive, negative = (torch.randint(0, 6, (k,), generator=draw).double() for k in (17, 23))
    pairs = [(p > q) + (p == q) / 2 for p, q in itertools.product(positive.tolist(), negative.tolist())]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_by_hand():
    assert auroc(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])) == pytest.approx(3.5 / 4)
    assert auroc(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0])) == (1 + 1 + 1 + 0.5) / 4


def test_auroc_is_that_of_scikit_learn():
    scores = torch.randn(60, generator=generator(), dtype=torch.float64).round(decimals=1)
    assert auroc(scores[:20], scores[20:]) == pytest.approx(roc_auc_score([1] * 20 + [0] * 40, scores))


def test_more_separation_is_a_larger_figure():
    found = [measured(shift) for shift in (0, 1, 2, 8)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.5, abs=0.1)
    assert found[-1] > 0.99


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_contamination_costs_at_most_half_its_share(share):
    clean, contaminated = measured(8), measured(8, harmful_share=share)
    assert clean - share / 2 - 0.03 < contaminated < clean


def test_rows_of_a_seen_prompt_do_not_count_as_held_out():
    """Harmful rows that share nothing but their prompt's own direction: known prompts look easy, unseen ones do not."""
    draw = generator(3)
    own = torch.randn(10, 40, generator=draw)
    harmful = own.repeat_interleave(6, dim=0) + 0.01 * torch.randn(60, 40, generator=draw)
    sets = {
        "downstream": torch.randn(300, 40, generator=draw),
        "safe_anchor": torch.randn(30, 40, generator=draw),
        "harmful_reference": harmful,
    }
    apart = measured(0, prompts={"harmful_prompts": [i // 6 for i in range(60)]}, **sets)
    leaking = measured(0, **sets)
    assert leaking > 0.9
    assert apart < 0.75


def test_folds_are_as_many_as_there_are_prompts():
    assert measured(8, prompts={"safe_prompts": [0, 1] * 15}) > 0.99
    with pytest.raises(DataError, match="only one prompt"):
        measured(8, prompts={"safe_prompts": ["the same"] * 30})


def test_a_zero_row_is_an_error():
    with pytest.raises(DataError, match="zero"):
        measured(1, downstream=torch.zeros(300, 8))


def contrasted(shift, *, n=60, safe_prompts=None, harmful_prompts=None):
    """Contrast of Gaussian clouds of which one is shifted along one axis."""
    draw = generator(1)
    safe, harmful = torch.randn(n, 8, generator=draw), torch.randn(n, 8, generator=draw)
    harmful[:, 0] += shift
    prompts = {"safe_prompts": safe_prompts or range(n), "harmful_prompts": harmful_prompts or range(n)}
    return held_out_contrast(safe, harmful, **prompts, n_folds=5, generator=generator())


def test_contrast_grows_with_what_tells_the_answers_apart():
    assert contrasted(0.0) == pytest.approx(0.5, abs=0.12)
    assert contrasted(0.0) < contrasted(1.5) < contrasted(9.0) == 1.0


def test_prompts_of_both_references_fall_into_one_fold():
    # Rows that are told by their prompt alone, each prompt always on the same side: no held-out prompt says anything.
    n = 120
    z = torch.randn(n, 200, generator=generator(3))
    rows = z.repeat_interleave(4, dim=0)
    prompts = [i // 4 for i in range(2 * n)]
    found = held_out_contrast(
        rows[: 2 * n], rows[2 * n :], safe_prompts=prompts, harmful_prompts=[n + p for p in prompts], n_folds=5,
        generator=generator(),
    )  # fmt: skip
    assert found < 0.7  # 1 where a prompt is both learned from and measured on


def test_a_contrast_needs_prompts_to_hold_out():
    with pytest.raises(DataError, match="too few prompts"):
        contrasted(1.0, safe_prompts=["one"] * 60, harmful_prompts=["one"] * 60)
