from dataclasses import replace

import pytest

from sotune.errors import ConfigError
from sotune.methods.safeinstr import with_pairs


@pytest.mark.parametrize(("dose", "n"), [(0.03, 1), (0.25, 3), (1.0, 4)])
def test_the_dose_is_a_share_of_the_rows_as_far_as_there_are_pairs(train_inputs, dose, n):
    dosed = with_pairs(train_inputs, dose=dose)
    assert list(dosed.records[:12]) == list(train_inputs.records)
    assert [record.completion for record in dosed.records[12:]] == ["I will not."] * n
    assert dosed.loss_weights == {**train_inputs.loss_weights, **{f"safety-pair-{i:05d}": 1.0 for i in range(n)}}


def test_the_loss_weights_of_a_weigher_stay(train_inputs):
    weighted = {**train_inputs.loss_weights, "d03": 1.5}
    assert with_pairs(replace(train_inputs, loss_weights=weighted), dose=0.1).loss_weights["d03"] == 1.5


@pytest.mark.parametrize("dose", [0.0, -0.1, 1.5])
def test_a_senseless_dose_is_refused(train_inputs, dose):
    with pytest.raises(ConfigError, match="dose of safety pairs"):
        with_pairs(train_inputs, dose=dose)
