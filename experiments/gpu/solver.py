"""Part 4: the push-pull solver with tensors on the GPU, against the CPU at the smallest size."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any, Literal

from bench import Bench, free_memory, peak_memory, spread, timed

PART = "solver"
N_ANCHOR = 50
Cost = Literal["adaptive", "cosine"]
COSTS: tuple[Cost, ...] = ("adaptive", "cosine")


def run(bench: Bench) -> None:
    """Times the solver for each size and ground cost."""
    n_reference, d = (300, 32) if bench.tiny else (5000, 4096)
    sizes = (300, 600) if bench.tiny else (5000, 20_000, 50_000)
    bench.note(PART, n_reference=n_reference, n_anchor=N_ANCHOR, d=d, device=bench.device)
    _warm_up(bench)
    for n in sizes:
        for cost in COSTS:
            repeats = 3 if n == sizes[0] else 1
            bench.attempt(PART, f"{cost}_{n}", partial(_measure, n, n_reference, d, bench.device, cost, repeats))
            free_memory()
    for cost in COSTS:
        bench.attempt(
            PART, f"{cost}_{sizes[0]}_cpu", partial(_measure_cpu, sizes[0], n_reference, d, bench.device, cost)
        )


def sets(n: int, m: int, d: int, device: str) -> list[Any]:
    """Draws clustered unit vectors: rows of which a tenth are like the reference, an anchor, a harmful reference."""
    import torch

    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator, device=device)

    basis, centers, mean = normal(24, d) / math.sqrt(d), normal(40, 24), 2 * normal(d) / math.sqrt(d)

    def draw(k: int, low: int, high: int) -> Any:
        label = torch.randint(low, high, (k,), generator=generator, device=device)
        inner = (centers[label] + 0.5 * normal(k, 24)) @ basis
        return torch.nn.functional.normalize(inner + mean + 0.02 * normal(k, d), dim=1)

    return [torch.cat([draw(n - n // 10, 0, 30), draw(n // 10, 26, 40)]), draw(N_ANCHOR, 0, 30), draw(m, 28, 40)]


def _learn(data: list[Any], cost: Cost) -> Any:
    from sotune.settings import WeightSettings
    from sotune.weights import learn_weights

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        downstream, safe_anchor, harmful_reference = data
        return learn_weights(downstream, safe_anchor, harmful_reference, WeightSettings(cost=cost))


def _warm_up(bench: Bench) -> None:
    data = sets(500, 200, 64, bench.device)
    for cost in COSTS:
        bench.attempt(PART, f"warm_up_{cost}", partial(_converges, data, cost))


def _converges(data: list[Any], cost: Cost) -> dict[str, Any]:
    return {"converged": _learn(data, cost).converged}


def _measure(n: int, m: int, d: int, device: str, cost: Cost, repeats: int) -> dict[str, Any]:
    data = sets(n, m, d, device)
    with peak_memory() as memory:
        runs = [timed(lambda: _learn(data, cost)) for _ in range(repeats)]
    found: dict[str, Any] = {"seconds": spread([seconds for seconds, _ in runs]), **memory, **_facts(runs[-1][1])}
    if cost == "adaptive":
        from sotune.weights.ground_cost import learn_contrast

        found["stretch_seconds"] = round(timed(lambda: learn_contrast(*data))[0], 3)
    return found


def _measure_cpu(n: int, m: int, d: int, device: str, cost: Cost) -> dict[str, Any]:
    import torch

    data = sets(n, m, d, device)
    there = _learn(data, cost)
    seconds, learned = timed(lambda: _learn([part.cpu() for part in data], cost))
    ours, cpu = there.weights.double().cpu(), learned.weights.double().cpu()
    return {
        "seconds": spread([seconds]),
        "threads": torch.get_num_threads(),
        **_facts(learned),
        "largest_relative_weight_difference": float((ours - cpu).abs().max() * n),
        "relative_difference": float((ours - cpu).norm() / cpu.norm()),
    }


def _facts(learned: Any) -> dict[str, Any]:
    return {
        "converged": learned.converged,
        "stationarity": learned.stationarity,
        "column_errors": [learned.marginal_error("pull"), learned.marginal_error("push")],
        "steps": learned.n_steps,
        "sinkhorn_iterations": learned.n_sinkhorn_iters,
        "passes": learned.n_passes,
        "effective_sample_size": learned.effective_sample_size,
        "device_of_weights": str(learned.weights.device),
        "dtype_of_weights": str(learned.weights.dtype),
    }
