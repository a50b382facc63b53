import pytest
import torch

from sotune.methods import METHODS, WeighInputs
from sotune.methods.saft import choose


def planted(*, harm=4.0, d=12, seed=0):
    """Rows of which the first ten spread along one axis, far more than all others do."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n, spread):
        z = 0.3 * torch.randn(n, d, generator=generator, dtype=torch.float64)
        z[:, 3] = spread * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0).double()
        return z

    return torch.cat([draw(10, harm), draw(40, 0.1)]), draw(15, 0.1), draw(25, harm)


def test_the_planted_direction_is_the_first_singular_vector_and_its_square_the_score():
    z, safe, harmful = planted()
    choice = choose(z[None], safe[None], harmful[None], center=False)
    direction = torch.linalg.svd(z).Vh[0]
    assert abs(float(direction[3])) > 0.99
    assert (choice.layer, choice.k, choice.harm_is_high, choice.auroc) == (0, 1, True, 1.0)
    torch.testing.assert_close(choice.scores, (z @ direction) ** 2)


@pytest.mark.parametrize("name", ["saft", "saft_centered"])
def test_harmful_rows_weigh_least(name):
    weights = METHODS[name].weigh(WeighInputs(*planted(), seed=0)).weights
    assert weights[:10].max() < weights[10:].min()


def test_the_score_does_not_depend_on_the_sign_of_the_vectors():
    """A mean of projections would: two of opposite sign cancel, their squares do not."""
    z, safe, harmful = planted()
    flipped = torch.ones(12, dtype=torch.float64)
    flipped[3] = -1
    plain, mirrored = (
        choose((z * s)[None], (safe * s)[None], (harmful * s)[None], center=False) for s in (1.0, flipped)
    )
    torch.testing.assert_close(mirrored.scores, plain.scores)


def test_the_validation_set_turns_the_sign_where_harm_varies_least():
    z, safe, harmful = planted()
    choice = choose(z[None], harmful[None], safe[None], center=False)
    assert not choice.harm_is_high
    assert choice.auroc == 1.0


def test_it_chooses_the_layer_that_shows_harm():
    z, safe, harmful = planted()
    noise = torch.Generator().manual_seed(5)
    blind = [torch.randn(part.shape, generator=noise, dtype=torch.float64) for part in (z, safe, harmful)]
    layers = [torch.stack([b, part]) for b, part in zip(blind, (z, safe, harmful), strict=True)]
    assert choose(*layers, center=False).layer == 1


def test_centering_takes_the_rows_mean_off_the_references_too():
    z, safe, harmful = planted()
    offset = 50 * torch.ones(12, dtype=torch.float64)
    moved = choose((z + offset)[None], (safe + offset)[None], (harmful + offset)[None], center=True)
    still = choose(z[None], safe[None], harmful[None], center=True)
    torch.testing.assert_close(moved.scores, still.scores)
    uncentered = choose((z + offset)[None], (safe + offset)[None], (harmful + offset)[None], center=False)
    assert not torch.allclose(uncentered.scores, still.scores)
