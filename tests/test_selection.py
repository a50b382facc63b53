import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotune import ConfigError, DataError
from sotune.selection import keep_count, select_rows


@pytest.mark.parametrize(
    ("n", "fraction", "expected"), [(5000, 0.8, 4000), (7, 0.8, 5), (100, 0.29, 29), (3, 1.0, 3), (10, 0.1, 1)]
)
def test_keep_fraction_is_rounded_down(n, fraction, expected):
    assert keep_count(n, keep_fraction=fraction) == expected


def test_k_wins_and_is_checked():
    assert keep_count(10, keep_fraction=0.8, k=10) == 10
    with pytest.raises(DataError, match="k=11 exceeds 10 records; lower k"):
        keep_count(10, keep_fraction=0.8, k=11)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        keep_count(10, keep_fraction=0.8, k=0)
    with pytest.raises(ConfigError, match="keeps none"):
        keep_count(10, keep_fraction=0.05)
    with pytest.raises(ConfigError, match=r"must be in \(0, 1\]"):
        keep_count(10, keep_fraction=1.2)


def test_largest_weights_stay_in_input_order_and_ties_go_by_id():
    rows = select_rows(["d", "b", "c", "a"], [0.2, 0.3, 0.3, 0.2], k=3, loss_weight_rule="uniform")
    assert [row.id for row in rows] == ["d", "b", "c", "a"]
    assert {row.id: row.rank for row in rows} == {"b": 1, "c": 2, "a": 3, "d": 4}
    assert [row.id for row in rows if row.kept] == ["b", "c", "a"]
    assert "ties are settled by id" in rows[0].reason


@pytest.mark.parametrize("rule", ["proportional", "exp", "uniform"])
@given(weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=30))
def test_loss_weights_have_mean_one_and_keep_their_order(rule, weights):
    total = sum(weights)
    ids = [f"r{i}" for i in range(len(weights))]
    k = max(1, len(ids) // 2)
    kept = [r for r in select_rows(ids, [w / total for w in weights], k=k, loss_weight_rule=rule) if r.kept]
    assert len(kept) == k
    assert math.fsum(r.loss_weight for r in kept) == pytest.approx(k)
    by_weight = sorted(kept, key=lambda r: r.weight)
    assert all(a.loss_weight <= b.loss_weight + 1e-12 for a, b in zip(by_weight, by_weight[1:], strict=False))


def test_rules_are_what_they_say():
    ids, weights = ["a", "b", "c"], [0.5, 0.3, 0.2]
    proportional = select_rows(ids, weights, k=2, loss_weight_rule="proportional")
    assert proportional[0].loss_weight / proportional[1].loss_weight == pytest.approx(5 / 3)
    assert proportional[2].loss_weight is None
    paper = select_rows(ids, weights, k=2, loss_weight_rule="exp")
    assert paper[0].loss_weight / paper[1].loss_weight == pytest.approx(math.exp(0.2))


@pytest.mark.parametrize(
    ("ids", "weights", "k", "message"),
    [
        (["a", "a"], [0.5, 0.5], 1, "ids must be unique"),
        (["a"], [0.5, 0.5], 1, "each row needs one weight"),
        (["a", "b"], [0.5, math.nan], 1, "finite and non-negative"),
        (["a", "b"], [1.5, -0.5], 1, "finite and non-negative"),
        (["a", "b"], [0.5, 0.5], 3, "k must be between 1 and 2"),
        (["a", "b"], [0.0, 0.0], 1, "all kept rows have weight 0"),
    ],
)
def test_bad_selections_are_named(ids, weights, k, message):
    with pytest.raises(DataError, match=message):
        select_rows(ids, weights, k=k, loss_weight_rule="proportional")


def test_unknown_rule_is_named():
    with pytest.raises(ConfigError, match="loss_weight_rule must be one of"):
        select_rows(["a"], [1.0], k=1, loss_weight_rule="softmax")
