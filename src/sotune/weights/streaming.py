"""Weights of more rows than fit: solved on a sample in memory, then corrected by passes over all rows.

A pass finds the true column sums at the sample's potentials. What the sample gets wrong is a factor for each column,
the true sum over the sample's, and it changes slowly with the potentials; so the sample is solved again with its sums
multiplied by that factor, and the next pass finds a far smaller error. Where it does not (epsilon is small and the
sample too), passes go on alone, as Sinkhorn updates on all rows. A pass is one `sweep`: it updates the row potentials
of all references and the weights together, and measures the column error at exactly those weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import Extrapolation, join, move_all
from sotune.transport.kernel import Kernel
from sotune.transport.sweep import OnRows
from sotune.weights.fixed_point import Tempering, Together, conclude, iterate_together, sweep_weights
from sotune.weights.mirror import History
from sotune.weights.objective import PushPullProblem
from sotune.weights.solution import LearnedWeights, OnStep

OnPass = Callable[[int], OnRows | None]
"""Is told that a pass begins, by its number from 1, and returns what is to be told of its rows, if anything."""

_SAMPLE_BYTES = 1 << 30  # a larger sample costs more than the passes that it saves
_LEAST_SAMPLE = 1000
_CORRECTED = 0.5  # a corrected sample that does not halve the error is too small; plain passes take over
_TAU_SETTLED = 5e-3  # relative error of tau at which it is held; the effective sample size is then right to 1e-3
_SAMPLE_SEED = 0


def kernel_bytes(problem: PushPullProblem) -> int:
    """Returns how much memory the kernels of a problem take when they are stored, in the process with most rows.

    All processes must come to the same, or some would stream what others have stored, and wait for them forever.
    """
    width = sum(reference.cost.shape[1] for reference in problem.references)
    return problem.shards.most(problem.n) * width * problem.base_mass.element_size()


def memory_budget(device: torch.device) -> int:
    """Returns how many bytes kernels may take on a device by default: half of its memory.

    It is of all memory, not of what is free, so that the same machine takes the same path each time.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 2
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, int(limit) if limit.isdigit() else total) // 2


def solve_streamed(
    problem: PushPullProblem, settings: WeightSettings, max_memory: int, on_step: OnStep, on_pass: OnPass
) -> LearnedWeights:
    """Solves the weights of all rows without ever holding a kernel over all of them.

    Args:
        problem: What is weighed.
        settings: How; ``one_step`` holds the weights at the base mass while the transports are solved.
        max_memory: Bytes that the sample's kernels may take.
        on_step: Called after each pass.
        on_pass: Called before each pass.
    """
    held = settings.solver == "one_step"
    tolerance = max(settings.marginal_tolerance, settings.streamed_tolerance)
    sample = problem.take(_draw(problem, max_memory))
    near, far = sample.kernels(stored=True), problem.kernels(stored=False)
    tempering, tau = Tempering.of(settings), settings.tau
    history, n_iters = History(problem, on_step), 0
    least, corrections, polish = math.inf, None, None
    while True:
        if polish is None:
            found = _solve_sample(sample, near, settings, tolerance, tau, corrections)
            n_iters += found.n_sweeps * len(near)
            tau = None if held else found.state.tau
            move_all(far, join(kernel.g for kernel in near))
        state = sweep_weights(
            problem, far, tempering, tau, mean_costs=True, on_rows=on_pass(len(history.steps) + 1)
        )  # fmt: skip
        n_iters += len(far)
        history.add_state(state)
        error = max(state.swept.errors)
        # The sample's tau is only nearly right for all rows.
        right_tau = tau is None or abs(state.next_tau / tau - 1) < _TAU_SETTLED
        converged = error <= tolerance and right_tau
        if converged or len(history.steps) >= settings.max_outer_steps:
            break
        # The error of a corrected sample shrinks with the corrections' change; where it does not, the sample is too
        # small for this epsilon, and its corrections would go on jumping about.
        if polish is None and error > _CORRECTED * least:
            polish = Extrapolation(join(kernel.b for kernel in far))
        least = min(least, error)
        if polish is not None:
            point = join(kernel.g for kernel in far)
            move_all(far, polish.next(point, join(state.swept.changes), error))
        else:
            # At the same potentials, so that all that differs is which rows were summed.
            sampled = sweep_weights(sample, near, tempering, tau).swept.log_masses
            corrections = [true - guessed for true, guessed in zip(state.swept.log_masses, sampled, strict=True)]
        tau = tau if right_tau else state.next_tau
    return conclude(
        problem,
        state,
        far,
        history=history.steps,
        n_sinkhorn_iters=n_iters,
        converged=converged,
        n_passes=len(history.steps),
    )


def _solve_sample(
    sample: PushPullProblem,
    kernels: Sequence[Kernel],
    settings: WeightSettings,
    tolerance: float,
    tau: float | None,
    corrections: Sequence[Tensor] | None,
) -> Together:
    """Solves the sample ten times closer than all rows need: a pass then sees its error and not the solver's."""
    tempering = Tempering.of(settings)
    return iterate_together(
        sample,
        kernels,
        tempering if tau is None else tempering.held(tau),
        marginal_tolerance=tolerance / 10,
        stationarity_tolerance=max(settings.stationarity_tolerance, tolerance / 10),
        max_sweeps=settings.max_outer_steps,
        held=settings.solver == "one_step",
        corrections=corrections,
        start_tau=tau,
    )


def _draw(problem: PushPullProblem, max_memory: int) -> torch.Tensor:
    row_bytes = sum(reference.cost.shape[1] for reference in problem.references) * problem.base_mass.element_size()
    size = min(problem.n, max(_LEAST_SAMPLE, min(max_memory, _SAMPLE_BYTES) // row_bytes))
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    return torch.randperm(problem.n, generator=generator)[:size].sort().values.to(problem.base_mass.device)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
