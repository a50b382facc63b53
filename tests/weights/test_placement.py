"""Where weights are solved."""

import pytest
import torch

import sotune.weights.placement as placement
from sotune.errors import ConfigError
from sotune.settings import WeightSettings
from sotune.transport import RowView
from sotune.weights import learn_weights
from sotune.weights.placement import choose_device, place_learned

CPU, MPS, CUDA = (torch.device(name) for name in ("cpu", "mps", "cuda"))


class Elsewhere(RowView):
    """Rows that say that they lie on another device, and are handed out where they are asked for."""

    def __init__(self, rows, device):
        super().__init__(rows)
        self._device = device

    @property
    def device(self):
        return self._device


def sets():
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(n, 12, generator=generator) for n in (60, 8, 30)]
    return draw[0], draw[1] + torch.eye(12)[0] * 2, draw[2] + torch.eye(12)[1] * 2


@pytest.mark.parametrize("cost", ["cosine", "adaptive"])
def test_rows_of_a_device_without_float64_are_solved_on_the_cpu(cost):
    """MPS has no float64, which potentials are in."""
    rows, safe, harmful = sets()
    settings = WeightSettings(cost=cost)
    expected = learn_weights(rows, safe, harmful, settings)

    found = learn_weights(Elsewhere(rows, MPS), safe, harmful, settings)

    assert found.weights.device == CPU
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    assert place_learned(expected, MPS).weights.device == CPU


def test_a_wanted_device_without_float64_gives_way_to_the_cpu():
    rows, safe, harmful = sets()

    assert choose_device("mps", (60, 38), rows) == CPU
    assert learn_weights(rows, safe, harmful, WeightSettings(solver_device="mps")).converged


def test_kernels_that_fit_into_ram_alone_stay_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    budgets = {"cuda": 1000, "cpu": 5000}
    monkeypatch.setattr(placement, "memory_budget", lambda device: budgets[device.type])
    rows = torch.zeros(10, 4)

    chosen = [choose_device("cuda", (10, width), rows) for width in (25, 26, 125, 126)]

    assert chosen == [CUDA, CPU, CPU, CUDA]  # what fits nowhere is streamed, on the GPU
    assert choose_device("auto", (10, 25), rows) == CPU


@pytest.mark.parametrize(("device", "message"), [("gpu0", "solver_device must be"), ("cuda", "not available")])
def test_a_device_that_is_not_there_is_refused(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        learn_weights(*sets(), WeightSettings(solver_device=device))


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"cost": "cosine"}, {"max_memory": 4000, "streamed_tolerance": 1e-6}])
def test_the_gpu_gives_the_weights_of_the_cpu(changes):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    rows, safe, harmful = sets()

    expected, found = (
        learn_weights(rows, safe, harmful, WeightSettings(solver_device=device, **changes))
        for device in ("cpu", "cuda")
    )

    assert found.weights.device == CPU
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-4, atol=0)
