import torch

from sotune.methods.folding import LowRank, beside, load_layers
from sotune.methods.inputs import EditInputs
from sotune.methods.method import train_weighted
from sotune.methods.resta import edit
from sotune.methods.tuned import tune_on


def test_updates_beside_each_other_add_up():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        LowRank(torch.randn(r, 5, generator=generator), torch.randn(7, r, generator=generator)) for r in (2, 3)
    )
    both = beside(first, second)
    assert both.a.shape == (5, 5)
    torch.testing.assert_close(both.b @ both.a, first.b @ first.a + second.b @ second.a)


def test_resta_subtracts_half_of_harm(train_inputs):
    result = train_weighted(train_inputs)
    before = load_layers(result.adapter)
    edit(EditInputs(result.adapter, train_inputs))
    after = load_layers(result.adapter)
    harm = load_layers(tune_on(train_inputs.harmful_reference, train_inputs.tools, name="again"))
    for name, update in after.items():
        expected = before[name].b @ before[name].a - 0.5 * harm[name].b @ harm[name].a
        torch.testing.assert_close(update.b @ update.a, expected, rtol=1e-4, atol=1e-5)
        assert (harm[name].b @ harm[name].a).norm() > 1e-2
