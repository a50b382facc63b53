import pytest
import torch

from sotune.sentinels import Folds, tune_settings, weigh_with_sentinels
from sotune.sentinels.tuning import Representations
from sotune.settings import TUNED, WeightSettings


def sets(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(n, shift):
        z = torch.randn(n, 6, generator=generator)
        z[:, 0] += shift
        return z

    return torch.cat([draw(40, 2), draw(160, -2)]), draw(20, -2), draw(90, 2)


def representations():
    downstream, anchor, harmful = sets()
    return Representations(downstream, anchor, harmful[:60], harmful[60:])


@pytest.mark.parametrize(("cost", "n"), [("adaptive", 54), ("cosine", 27)])
def test_points_that_mean_the_same_are_tried_once(cost, n):
    settings = WeightSettings(cost=cost)
    tuned = tune_settings(representations(), settings, grid=TUNED)
    assert len(tuned.tried) == n
    assert tuned.default.settings is settings
    assert tuned.tried[0] == tuned.default
    assert tuned.best.auroc == max(one.auroc for one in tuned.tried)
    assert tuned.chosen in (tuned.default, tuned.best)


def test_without_a_grid_nothing_is_chosen():
    settings = WeightSettings(epsilon=0.3)
    tuned = tune_settings(representations(), settings, grid={})
    assert tuned.tried == (tuned.default,)
    assert tuned.chosen.settings is settings
    assert tuned.n_sentinels == 30


def test_what_the_tuning_fold_chose_is_what_the_weights_are_solved_with():
    downstream, anchor, harmful = sets()
    folds = Folds(tuple(range(30)), tuple(range(30, 60)), tuple(range(60, 90)), ())
    guarded = weigh_with_sentinels(downstream, anchor, harmful, folds, WeightSettings(), grid={"stretch": (0.0, 4.0)})
    assert guarded.settings == guarded.sentinels.tuned.chosen.settings
    assert guarded.learned.cost.stretch == guarded.settings.stretch
    assert {one.settings.stretch for one in guarded.sentinels.tuned.tried} == {2.0, 0.0, 4.0}
    assert guarded.sentinels.harmful_scores.median() < guarded.row_scores.median()
