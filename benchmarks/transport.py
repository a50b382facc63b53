r"""How fast the push-pull solver is, against other libraries on the same problem and to the same truth.

**The problem** ``push_pull``: ``n`` downstream rows between 50 safe-anchor rows and ``m = n`` harmful rows, clustered
unit vectors of low rank; epsilon .1, push strength .5 and the tau at which the weights have an effective sample size
of .9. That tau is found once, in float64, outside all timing, and given to every solver. ``single`` is one transport
from the solved weights to the ``m`` harmful rows.

**The rule** is the same for all: ``w ∝ u·exp(−G / tau)`` with ``G = (1 − λ)·f_pull − λ·f_push``. For other libraries
an outer loop calls the library's own solver, warm-started by the library's own means, with a limit on its inner
iterations from a small set; each library is timed at its own best limit.

**The goal**: a solver stops when it measures itself a stationarity within its tolerance. Then, outside the timing and
in float64, what is true is found: the L1 column error of both plans at the final weights (the larger one is reported),
and the stationarity of those weights with potentials solved to 1e-9. Both must be at most 1e-4. A solver that misses
this is run again with a tighter tolerance until it does, and timed there; one that never does is timed by the
one trial that came nearest, and its row says ``reached: false``.

**The published recipe** ``unrolled`` (softmax logits, Adam, 10 × 10 log-domain iterations in float32, the sharp
objective of Eq. 6 differentiated through the iterations) has no tau and no point to stop at, so it is compared at
equal objective: the sharp objective of its weights is evaluated in float64, tau is lowered (outside the timing) until
sotune's solution has a sharp objective at most as high, and sotune is timed at that tau, to the same goal as above:
the row ``sotune_equal_objective``. If no tau gets there, that is printed. Its step size is not published: .1 here.

Every timing begins at the representations, cost matrix included, and is the median of interleaved runs: all solvers
once, then all again. Just-in-time compilation (OTT) is left out. Peak memory is measured apart, in a fresh process for
each solver, above the inputs. How the libraries are used:

- POT: ``ot.sinkhorn(..., warmstart=...)``. Its scalings hold the marginals, so the row scaling it starts from is
  remade for the new weights: ``log u = f / epsilon + log w``. In ``single`` it stops by its ``stopThr``, an L2 norm
  that it looks at in every tenth iteration.
- GeomLoss: ``geomloss.ot.solve`` takes no start and heeds no tolerance, only a number of annealed iterations.
- OTT: ``Sinkhorn`` with ``init=``, compiled; on the CPU alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import (
    CosineCost,
    Kernel,
    OTProblem,
    SinkhornSolver,
    column_error,
    extend_potential,
    sinkhorn,
    sweep,
)
from sotune.weights import LearnedWeights, learn_weights

ProblemName = Literal["push_pull", "single"]
EPSILON, PUSH_STRENGTH, SAMPLE_SIZE, N_ANCHOR = 0.1, 0.5, 0.9, 50
GOAL = 1e-4
TOLERANCES = (1e-4, 3e-5, 1e-5, 3e-6)
MAX_OUTER, MAX_ITERS = 300, 3000
UNROLLED_OUTER, UNROLLED_INNER, UNROLLED_RATE = 10, 10, 0.1
JUDGE_STORE = 4 << 30  # the judge computes larger kernels anew at each iteration
SLACK = 1.3  # a trial run that takes longer than this times the best so far is given up
QUICK_ONCE_SECONDS = 10.0
SCALE_SHAPE = (5000, 384)
SCALE_MEMORY = 3 << 29
SCALE_EXACT_ROWS = 40_000


# --- The problem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A size, from which the data follow."""

    n: int
    m: int
    d: int
    device: str
    seed: int = 0


@dataclass(frozen=True)
class Sets:
    """Representations in float32: downstream ``[n, d]``, safe anchor ``[50, d]``, harmful reference ``[m, d]``."""

    downstream: Tensor
    safe_anchor: Tensor
    harmful_reference: Tensor

    def double(self) -> Sets:
        """Returns the same in float64."""
        return Sets(self.downstream.double(), self.safe_anchor.double(), self.harmful_reference.double())


@dataclass(frozen=True)
class Task:
    """What a solver is asked.

    Attributes:
        sets: Its representations.
        problem: Whether weights are learned, or one transport is solved.
        tau: Strength of the KL term.
        masses: Row masses of the single transport, ``[n]``, float64.
    """

    sets: Sets
    problem: ProblemName
    tau: float
    masses: Tensor


class Clusters:
    """Draws unit vectors around 40 centers in a space of 24 dimensions, with a common mean and a little noise."""

    def __init__(self, d: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._basis = self._normal(24, d) / math.sqrt(d)
        self._centers = self._normal(40, 24)
        self._mean = 2 * self._normal(d) / math.sqrt(d)

    def draw(self, n: int, low: int, high: int) -> Tensor:
        """Returns ``n`` rows of the clusters ``low`` to ``high``."""
        label = torch.randint(low, high, (n,), generator=self._generator)
        inner = (self._centers[label] + 0.5 * self._normal(n, 24)) @ self._basis
        return torch.nn.functional.normalize(inner + self._mean + 0.02 * self._normal(n, len(self._mean)), dim=1)

    def downstream(self, n: int) -> Tensor:
        """Returns rows of which a tenth lie near the harmful ones."""
        harmful = n // 10
        return torch.cat([self.draw(n - harmful, 0, 30), self.draw(harmful, 26, 40)])

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


def make_sets(case: Case) -> Sets:
    """Returns the data of a case."""
    clusters = Clusters(case.d, case.seed)
    parts = clusters.downstream(case.n), clusters.draw(N_ANCHOR, 0, 30), clusters.draw(case.m, 28, 40)
    return Sets(*(part.to(case.device) for part in parts))


def solver_settings(**changes: Any) -> WeightSettings:
    """Returns the settings of all our runs, with some changed."""
    settings = WeightSettings(
        cost="cosine",
        epsilon=EPSILON,
        push_strength=PUSH_STRENGTH,
        effective_sample_size=SAMPLE_SIZE,
        stationarity_tolerance=GOAL,
        marginal_tolerance=GOAL,
        max_outer_steps=MAX_OUTER,
        max_iters=MAX_ITERS,
        max_memory=1 << 40,
    )
    return settings.replace(**changes)


def learn(sets: Sets, settings: WeightSettings) -> LearnedWeights:
    """Learns weights; what did not converge says so in its result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return learn_weights(sets.downstream, sets.safe_anchor, sets.harmful_reference, settings)


# --- What a solver answers, and what is true of it --------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How a solver is run.

    Attributes:
        tolerance: At which it stops.
        inner: Limit on the inner iterations of one call, or how often the error is looked at; 0: its own rule.
    """

    tolerance: float
    inner: int = 0


@dataclass(frozen=True)
class Answer:
    """What a solver found.

    Attributes:
        weights: ``[n]``, any positive scale.
        potentials: Column potential of each plan, ``[m]``, in units of cost, up to a constant.
        iterations: Sinkhorn iterations of all transports.
        finished: Whether it stopped by its own rule.
    """

    weights: Tensor
    potentials: tuple[Tensor, ...]
    iterations: int
    finished: bool


@dataclass(frozen=True)
class Verdict:
    """What is true of an answer, in float64.

    Attributes:
        column_error: The larger L1 column error of its plans at its weights, rows updated.
        stationarity: Of its weights, with exact potentials; ``None`` for a single transport.
        objective: Regularized, with the tau term, at its weights with exact potentials; for a single transport the
            dual value of its own potentials.
        sharp_objective: ``Σ s·⟨P*, C⟩`` of exact plans at its weights (Eq. 6); ``None`` for a single transport.
        spearman: Rank correlation with the exact weights, or with the exact row potential of a single transport.
    """

    column_error: float
    stationarity: float | None
    objective: float
    sharp_objective: float | None
    spearman: float

    @property
    def reached(self) -> bool:
        """Whether it is within the goal."""
        return self.miss <= 1

    @property
    def miss(self) -> float:
        """By what factor the goal is missed; infinite for NaN."""
        worst = max(self.column_error, self.stationarity or 0.0) / GOAL
        return worst if math.isfinite(worst + self.objective) else math.inf


class Judge:
    """Knows the exact solution of a case, and what is true of an answer; all in float64.

    Attributes:
        tau: At which the exact weights have the wanted effective sample size.
        weights: The exact weights, ``[n]``.
        converged: Whether they were solved to 1e-8.
    """

    def __init__(self, sets: Sets) -> None:
        exact = sets.double()
        tolerances = {"stationarity_tolerance": 1e-8, "marginal_tolerance": 1e-8}
        learned = learn(exact, solver_settings(**tolerances))
        assert learned.tau is not None
        self.tau, self.weights, self.converged = learned.tau, learned.weights, learned.converged
        self._start = [reference.g.double() for reference in learned.references]
        self._kernels = [
            Kernel(
                cost, uniform(cost.shape[1], cost.device), EPSILON, g=g, stored=math.prod(cost.shape) * 8 < JUDGE_STORE
            )
            for cost, g in zip(
                (CosineCost(exact.downstream, y) for y in (exact.safe_anchor, exact.harmful_reference)),
                self._start,
                strict=True,
            )
        ]
        self._potential = self._column_errors(self.weights, self._start)[1][1]

    def judge(self, problem: ProblemName, answer: Answer, tau: float) -> Verdict:
        """Returns what is true of an answer."""
        weights = answer.weights.double() / answer.weights.double().sum()
        potentials = [g.double() for g in answer.potentials]
        if not all(bool(torch.isfinite(x).all()) for x in (weights, *potentials)) or not bool((weights > 0).all()):
            return Verdict(math.nan, None, math.nan, None, math.nan)
        if problem == "single":
            return self._judge_single(potentials[0])
        errors, _ = self._column_errors(weights, potentials)
        return self._judge_weights(weights, max(errors), tau)

    def _judge_single(self, g: Tensor) -> Verdict:
        errors, potentials = self._column_errors(self.weights, [g], kernels=self._kernels[1:])
        objective = float(potentials[0] @ self.weights) + float(g.mean())
        return Verdict(errors[0], None, objective, None, spearman(potentials[0], self._potential))

    def _judge_weights(self, weights: Tensor, error: float, tau: float) -> Verdict:
        n, signs = len(weights), (1 - PUSH_STRENGTH, -PUSH_STRENGTH)
        gradient, objective, sharp = torch.zeros_like(weights), 0.0, 0.0
        for sign, kernel, start in zip(signs, self._kernels, self._start, strict=True):
            kernel.move(start)
            solved = SinkhornSolver(kernel).solve(weights, tolerance=1e-9, max_iters=MAX_ITERS)
            swept = sweep([kernel], lambda start, stop, _: weights[start:stop].log(), mean_costs=True)
            gradient += sign * solved.f
            objective += sign * (float(solved.f @ weights) + float(solved.g.mean()))
            sharp += sign * float(swept.mean_costs[0] @ weights)
        residual = weights.log() + gradient / tau
        return Verdict(
            column_error=error,
            stationarity=float(residual.max() - residual.min()) / 2,
            objective=objective + tau * float(weights @ (weights * n).log()),
            sharp_objective=sharp,
            spearman=spearman(weights, self.weights),
        )

    def _column_errors(
        self, weights: Tensor, potentials: Sequence[Tensor], kernels: Sequence[Kernel] | None = None
    ) -> tuple[list[float], list[Tensor]]:
        errors, rows = [], []
        for kernel, g in zip(kernels or self._kernels, potentials, strict=True):
            kernel.move(g - g.mean())
            swept = sweep([kernel], lambda start, stop, _: weights[start:stop].log())
            errors.append(swept.errors[0])
            rows.append(swept.f[0] - g.mean())
        return errors, rows


def uniform(size: int, device: torch.device | str, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns equal masses, ``[size]``."""
    return torch.full((size,), 1 / size, dtype=dtype, device=device)


def spearman(x: Tensor, y: Tensor) -> float:
    """Returns the rank correlation of two vectors; ties are broken by position."""
    ranks = torch.stack([v.argsort(stable=True).argsort().double() for v in (x, y)])
    return float(torch.corrcoef(ranks)[0, 1])


# --- Other libraries --------------------------------------------------------------------------------------------------


class Transport(Protocol):
    """One transport problem in the hands of a library, which keeps what it needs for a warm start."""

    def solve(self, a: Tensor, setting: Setting, limit: int) -> tuple[Tensor, Tensor, int]:
        """Solves for row masses ``a`` in at most ``limit`` iterations.

        Returns:
            Potentials ``f`` and ``g`` in units of cost, by our convention, and the iterations done.
        """
        ...


class PotTransport:
    """POT, which starts from the logarithms of both scalings."""

    def __init__(self, x: Tensor, y: Tensor, *, backend: str, dtype: torch.dtype, method: str) -> None:
        import ot

        self._solve, self._method = ot.sinkhorn, method
        self._native: Callable[[Tensor], Any] = Tensor.numpy if backend == "numpy" else lambda tensor: tensor
        left, right = self._native(x.to(dtype)), self._native(y.to(dtype))
        self._cost = 1 - left @ right.T
        self._b = self._native(uniform(len(y), y.device, dtype))
        self._potentials: tuple[Tensor, Tensor] | None = None

    def solve(self, a: Tensor, setting: Setting, limit: int) -> tuple[Tensor, Tensor, int]:
        """See `Transport`."""
        log_a, log_b = a.log(), -math.log(len(self._b))
        start = None
        if self._potentials is not None:
            f, g = self._potentials
            start = self._native(f / EPSILON + log_a), self._native(g / EPSILON + log_b)
        # Without a call for precision the limit alone ends the call.
        stop = setting.tolerance / math.sqrt(len(self._b)) if limit > setting.inner else 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, log = self._solve(
                self._native(a),
                self._b,
                self._cost,
                EPSILON,
                method=self._method,
                numItermax=limit,
                stopThr=stop,
                warmstart=start,
                log=True,
                warn=False,
            )
        u, v = (
            (torch.as_tensor(log["log_u"]), torch.as_tensor(log["log_v"]))
            if "log_u" in log
            else (torch.as_tensor(log["u"]).log(), torch.as_tensor(log["v"]).log())
        )
        self._potentials = EPSILON * (u - log_a), EPSILON * (v - log_b)
        return *self._potentials, int(log["niter"]) + 1


class GeomlossTransport:
    """GeomLoss, which anneals epsilon anew at each call."""

    def __init__(self, x: Tensor, y: Tensor, *, dtype: torch.dtype) -> None:
        self._solve = importlib.import_module("geomloss.ot").solve
        self._cost = 1 - x.to(dtype) @ y.to(dtype).T
        self._b = uniform(len(y), y.device, dtype)

    def solve(self, a: Tensor, setting: Setting, limit: int) -> tuple[Tensor, Tensor, int]:
        """See `Transport`."""
        solved = self._solve(self._cost, reg=EPSILON, a=a, b=self._b, max_iter=setting.inner)
        return solved.potential_a, solved.potential_b, setting.inner


class OttTransport:
    """OTT, which starts from both potentials or scalings; its own hold the marginals, like POT's."""

    def __init__(self, x: Tensor, y: Tensor, *, dtype: torch.dtype, log_domain: bool) -> None:
        self._dtype, self._log_domain = dtype, log_domain
        self._cost = _ott_cost()(x.to(dtype).numpy(), y.to(dtype).numpy())
        self._b = uniform(len(y), y.device, dtype)
        self._potentials: tuple[Tensor, Tensor] | None = None

    def solve(self, a: Tensor, setting: Setting, limit: int) -> tuple[Tensor, Tensor, int]:
        """See `Transport`."""
        log_a, log_b = a.log(), -math.log(len(self._b))
        f, g = self._potentials or (torch.zeros_like(a), torch.zeros_like(self._b))
        starts = f / EPSILON + log_a, g / EPSILON + log_b
        starts = tuple(EPSILON * x if self._log_domain else x.exp() for x in starts)
        threshold = setting.tolerance if limit > setting.inner else 0.0
        run = _ott_solver(self._log_domain, setting.inner, limit, threshold)
        found = run(self._cost, a.numpy(), self._b.numpy(), starts[0].numpy(), starts[1].numpy())
        f, g, iterations = (torch.from_numpy(_as_numpy(part)) for part in found)
        self._potentials = f - EPSILON * log_a, g - EPSILON * log_b
        return *self._potentials, int(iterations)


def _as_numpy(array: Any) -> Any:
    import numpy as np

    return np.array(array)


@functools.cache
def _ott_cost() -> Callable[..., Any]:
    import jax

    return jax.jit(lambda x, y: 1 - x @ y.T)


@functools.cache
def _ott_solver(log_domain: bool, inner: int, limit: int, threshold: float) -> Callable[..., Any]:
    import jax
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    solver = Sinkhorn(lse_mode=log_domain, threshold=threshold, inner_iterations=inner, max_iterations=limit)

    def run(cost: Any, a: Any, b: Any, u: Any, v: Any) -> tuple[Any, Any, Any]:
        out = solver(LinearProblem(Geometry(cost_matrix=cost, epsilon=EPSILON), a=a, b=b), init=(u, v))
        return out.f, out.g, out.n_iters

    return jax.jit(run)


def outer_loop(
    make: Callable[[Tensor, Tensor], Transport], task: Task, setting: Setting, dtype: torch.dtype, deadline: float
) -> Answer:
    """Solves a task with a library: the weights by the rule that is the same for all, or one transport."""
    sets = task.sets
    if task.problem == "single":
        transport = make(sets.downstream, sets.harmful_reference)
        _, g, iterations = transport.solve(task.masses.to(dtype), setting, MAX_ITERS)
        return Answer(task.masses, (g,), iterations, finished=iterations < MAX_ITERS)
    transports = [make(sets.downstream, y) for y in (sets.safe_anchor, sets.harmful_reference)]
    n = len(sets.downstream)
    log_weights = torch.full((n,), -math.log(n), dtype=dtype, device=sets.downstream.device)
    iterations = 0
    for _ in range(MAX_OUTER):
        solved = [transport.solve(log_weights.exp(), setting, setting.inner) for transport in transports]
        iterations += sum(count for *_, count in solved)
        gradient = (1 - PUSH_STRENGTH) * solved[0][0] - PUSH_STRENGTH * solved[1][0]
        target = torch.log_softmax(-gradient / task.tau, dim=0)
        residual = log_weights - target
        log_weights = target
        finished = float(residual.max() - residual.min()) / 2 <= setting.tolerance
        if finished or time.perf_counter() > deadline:
            break
    return Answer(log_weights.exp(), tuple(g for _, g, _ in solved), iterations, finished)


# --- The solvers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """A solver of the benchmark.

    Attributes:
        name: In the results.
        needs: Modules that it imports.
        devices: Where it runs.
        problems: What it solves.
        matrices: About how many bytes it holds for each entry of a cost matrix; says whether a size fits.
        ladders: Settings to try: within a ladder from the fastest to the most precise.
        solve: Runs it; may stop at the deadline.
    """

    name: str
    needs: tuple[str, ...]
    devices: tuple[str, ...]
    problems: tuple[ProblemName, ...]
    matrices: int
    ladders: Callable[[ProblemName], list[list[Setting]]]
    solve: Callable[[Task, Setting, float], Answer]

    def missing(self) -> str | None:
        """Returns why it cannot run, if it cannot."""
        for name in self.needs:
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 (a broken installation fails in many ways)
                return f"{name} does not import: {type(error).__name__}: {error}".splitlines()[0]
        return None


def contenders() -> dict[str, Contender]:
    """Returns all solvers, by name."""
    found = [_ours("sotune"), _ours("sotune_cccp", solver="cccp"), _ours("sotune_float64", dtype=torch.float64)]
    found += [
        _pot(backend, dtype, method)
        for backend in ("numpy", "torch")
        for dtype in (torch.float32, torch.float64)
        for method in ("kernel", "log")
    ]
    found += [_geomloss(dtype) for dtype in (torch.float32, torch.float64)]
    found += [_ott(dtype, method) for dtype in (torch.float32, torch.float64) for method in ("kernel", "log")]
    return {one.name: one for one in [*found, UNROLLED]}


def _ours(name: str, *, dtype: torch.dtype = torch.float32, solver: str = "mirror") -> Contender:
    def solve(task: Task, setting: Setting, deadline: float) -> Answer:
        sets = task.sets if dtype == torch.float32 else task.sets.double()
        if task.problem == "single":
            cost = CosineCost(sets.downstream, sets.harmful_reference)
            problem = OTProblem(cost, task.masses.to(dtype), uniform(cost.shape[1], cost.device, dtype), EPSILON)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = sinkhorn(problem, tolerance=setting.tolerance, max_iters=MAX_ITERS)
            return Answer(task.masses, (result.g,), result.n_iters, result.converged)
        tolerances = {"stationarity_tolerance": setting.tolerance, "marginal_tolerance": setting.tolerance}
        learned = learn(sets, solver_settings(solver=solver, tau=task.tau, **tolerances))
        potentials = tuple(reference.g for reference in learned.references)
        return Answer(learned.weights, potentials, learned.n_sinkhorn_iters, learned.converged)

    def ladders(problem: ProblemName) -> list[list[Setting]]:
        return [[Setting(tolerance) for tolerance in TOLERANCES]]

    problems: tuple[ProblemName, ...] = ("push_pull",) if solver == "cccp" else ("push_pull", "single")
    return Contender(name, (), ("cpu", "cuda"), problems, 2 * dtype.itemsize, ladders, solve)


def _pot(backend: str, dtype: torch.dtype, method: str) -> Contender:
    methods = {"kernel": "sinkhorn", "log": "sinkhorn_log"}
    make = functools.partial(PotTransport, backend=backend, dtype=dtype, method=methods[method])

    def ladders(problem: ProblemName) -> list[list[Setting]]:
        if problem == "single":  # its norm is L2: the tolerance is divided by √m, which is sure but often too strict
            return [[Setting(tolerance) for tolerance in (1e-3, 3e-4, *TOLERANCES)]]
        return _grid((2, 1, 5, 10))

    return Contender(
        name=f"pot_{backend}_{_short(dtype)}_{method}",
        needs=("ot",),
        devices=("cpu",) if backend == "numpy" else ("cpu", "cuda"),
        problems=("push_pull", "single"),
        matrices=5 * dtype.itemsize,
        ladders=ladders,
        solve=lambda task, setting, deadline: outer_loop(make, task, setting, dtype, deadline),
    )


def _geomloss(dtype: torch.dtype) -> Contender:
    make = functools.partial(GeomlossTransport, dtype=dtype)
    return Contender(
        name=f"geomloss_torch_{_short(dtype)}_log",
        needs=("geomloss",),
        devices=("cpu", "cuda"),
        problems=("push_pull", "single"),
        matrices=6 * dtype.itemsize,
        ladders=lambda problem: [[Setting(GOAL, inner) for inner in (10, 100)]],
        solve=lambda task, setting, deadline: outer_loop(make, task, setting, dtype, deadline),
    )


def _ott(dtype: torch.dtype, method: str) -> Contender:
    make = functools.partial(OttTransport, dtype=dtype, log_domain=method == "log")

    def solve(task: Task, setting: Setting, deadline: float) -> Answer:
        import jax

        with jax.enable_x64(dtype == torch.float64):
            return outer_loop(make, task, setting, dtype, deadline)

    return Contender(
        name=f"ott_jax_{_short(dtype)}_{method}",
        needs=("jax", "ott.solvers.linear.sinkhorn"),
        devices=("cpu",),
        problems=("push_pull", "single"),
        matrices=5 * dtype.itemsize,
        ladders=lambda problem: _grid((2, 1, 5, 10)),
        solve=solve,
    )


def _grid(limits: Sequence[int]) -> list[list[Setting]]:
    return [[Setting(tolerance, inner) for tolerance in TOLERANCES] for inner in limits]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def solve_unrolled(task: Task, setting: Setting, deadline: float) -> Answer:
    """The published recipe: Adam on logits, with the sharp cost differentiated through the Sinkhorn iterations."""
    sets, signs = task.sets, (1 - PUSH_STRENGTH, -PUSH_STRENGTH)
    costs = [1 - sets.downstream @ y.T for y in (sets.safe_anchor, sets.harmful_reference)]
    logits = torch.zeros(len(sets.downstream), device=sets.downstream.device, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=UNROLLED_RATE)
    potentials: list[Tensor] = []
    for _ in range(UNROLLED_OUTER):
        log_weights = torch.log_softmax(logits, dim=0)
        solved = [_sharp_cost(cost, log_weights) for cost in costs]
        loss = sum(sign * value for sign, (value, _) in zip(signs, solved, strict=True))
        adam.zero_grad()
        loss.backward()
        adam.step()
        potentials = [g for _, g in solved]
    weights = torch.softmax(logits.detach(), dim=0)
    return Answer(weights, tuple(potentials), 2 * UNROLLED_OUTER * UNROLLED_INNER, finished=True)


def _sharp_cost(cost: Tensor, log_a: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``⟨P, C⟩`` after the unrolled iterations, differentiable, and the column potential."""
    scaled, log_b = -cost / EPSILON, -math.log(cost.shape[1])
    v = torch.zeros_like(cost[0])
    for _ in range(UNROLLED_INNER):
        u = log_a - torch.logsumexp(scaled + v, dim=1)
        v = log_b - torch.logsumexp(scaled + u[:, None], dim=0)
    value = ((scaled + u[:, None] + v).exp() * cost).sum()
    return value, EPSILON * (v.detach() - log_b)


UNROLLED = Contender(
    name="unrolled",
    needs=(),
    devices=("cpu", "cuda"),
    problems=("push_pull",),
    matrices=4 * (4 * UNROLLED_INNER + 6),
    ladders=lambda problem: [[Setting(0.0, UNROLLED_INNER)]],
    solve=solve_unrolled,
)


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """A solver at the setting that it is timed at."""

    contender: Contender
    setting: Setting
    answer: Answer
    verdict: Verdict
    task: Task
    name: str
    trial_seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether it stopped by its own rule, within the goal."""
        return self.answer.finished and self.verdict.reached


@dataclass(frozen=True)
class Effort:
    """How hard to measure.

    Attributes:
        repeats: Timed runs.
        max_seconds: A trial run that is not done by then is stopped.
        once_seconds: A solver whose trial run takes longer is not run again: its trial is its time.
        memory: Whether to measure memory.
    """

    repeats: int
    max_seconds: float
    once_seconds: float
    memory: bool


class Clock:
    """What seconds are of: the wall clock, or of the processor, on a machine that does other work too."""

    read: Callable[[], float] = staticmethod(time.perf_counter)


def timed(contender: Contender, task: Task, setting: Setting, deadline: float = math.inf) -> tuple[Answer, float]:
    """Runs a solver once."""
    gc.collect()
    start, latest = Clock.read(), time.perf_counter() + deadline
    answer = contender.solve(task, setting, latest)
    if task.sets.downstream.is_cuda:
        torch.cuda.synchronize()
    return answer, Clock.read() - start


def warm_up(contender: Contender, case: Case, problem: ProblemName, setting: Setting) -> None:
    """Solves a small problem, so that libraries load what they load late."""
    task = Task(make_sets(replace(case, n=200, m=200)), problem, 1.0, uniform(200, case.device))
    contender.solve(task, setting, time.perf_counter() + 1)


def tune(
    contender: Contender, task: Task, judge: Judge, max_seconds: float, ladders: Sequence[Sequence[Setting]]
) -> Tuned:
    """Finds the fastest setting at which a solver reaches the goal, or the one at which it comes nearest."""
    best: Tuned | None = None
    for ladder in ladders:
        for setting in ladder:
            limit = SLACK * best.trial_seconds if best and best.verdict.reached else max_seconds
            if contender.name.startswith("ott"):
                timed(contender, task, setting, limit)  # compiles
            answer, seconds = timed(contender, task, setting, limit)
            verdict = judge.judge(task.problem, answer, task.tau)
            if best is None or _rank(verdict, seconds) < _rank(best.verdict, best.trial_seconds):
                best = Tuned(contender, setting, answer, verdict, task, contender.name, seconds)
            if verdict.reached or seconds > limit:
                break
    assert best is not None
    return best


def _rank(verdict: Verdict, seconds: float) -> tuple[float, float]:
    return (0.0, seconds) if verdict.reached else (verdict.miss, seconds)


def match_unrolled(unrolled: Tuned, judge: Judge, max_seconds: float) -> Tuned | None:
    """Returns sotune at the largest tau (of a geometric grid) with a sharp objective at most the recipe's."""
    wanted = unrolled.verdict.sharp_objective
    ours, task = contenders()["sotune"], unrolled.task
    lowest, end = math.inf, time.perf_counter() + max_seconds
    for step in range(24):
        lower = replace(task, tau=task.tau * 0.8**step)
        answer, seconds = timed(ours, lower, Setting(GOAL))
        sharp = judge.judge("push_pull", answer, lower.tau).sharp_objective
        if wanted is None or sharp is None:
            return None
        say(f"    tau {lower.tau:.4f}: sharp objective {sharp:.6f}, the recipe's {wanted:.6f}, {seconds:.2f} s")
        if sharp <= wanted:
            ladders = ours.ladders("push_pull")
            return replace(tune(ours, lower, judge, max_seconds, ladders), name="sotune_equal_objective")
        if sharp >= lowest or time.perf_counter() > end:
            return None
        lowest = sharp
    return None


def time_interleaved(entries: Sequence[Tuned], effort: Effort) -> list[list[float]]:
    """Returns the seconds of the runs of each solver; all run once, then all again."""
    seconds: list[list[float]] = [[] for _ in entries]
    for _ in range(effort.repeats):
        for entry, runs in zip(entries, seconds, strict=True):
            if entry.trial_seconds <= effort.once_seconds and (entry.succeeded or entry.contender is UNROLLED):
                runs.append(timed(entry.contender, entry.task, entry.setting)[1])
    return [runs or [entry.trial_seconds] for entry, runs in zip(entries, seconds, strict=True)]


def measure_memory(entry: Tuned, case: Case) -> int | None:
    """Returns the peak of memory above the inputs, in bytes, of one run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (
        sender,
        entry.contender.name,
        case,
        entry.task.problem,
        entry.task.tau,
        entry.task.masses.cpu().numpy(),
    )
    child = context.Process(target=_report_memory, args=(*arguments, entry.setting))
    child.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:  # the child was killed, most likely for want of memory
        return None
    finally:
        child.join()


def _report_memory(
    sender: Connection, name: str, case: Case, problem: ProblemName, tau: float, masses: Any, setting: Setting
) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    contender = contenders()[name]
    warm_up(contender, case, problem, setting)
    task = Task(make_sets(case), problem, tau, torch.from_numpy(masses).to(case.device))
    gc.collect()
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.solve(task, setting, math.inf)
        sender.send(torch.cuda.max_memory_allocated() - before)
        return
    reset_peak()
    before = resident_bytes("VmRSS")
    contender.solve(task, setting, math.inf)
    sender.send(max(0, resident_bytes("VmHWM") - before))


def reset_peak() -> None:
    """Sets the process's peak of memory back to what it holds now, where the system allows that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_bytes(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Returns what the process holds in memory, or its peak, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_bytes(device: str) -> int:
    """Returns how much memory is free."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


# --- One case ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One problem at one size, with those who solve it.

    Attributes:
        case: The size.
        problem: The problem.
        names: The solvers.
        tune_at: A smaller size, at which each library's best number of inner iterations is found; at the size itself
            where there is none.
    """

    case: Case
    problem: ProblemName
    names: tuple[str, ...]
    tune_at: Case | None = None


def run_case(case: Case, plans: Sequence[Plan], effort: Effort) -> list[dict[str, Any]]:
    """Measures all plans of one case, which share the exact solution."""
    sets = make_sets(case)
    judge = Judge(sets)
    say(f"n = m = {case.n:,}, d = {case.d}: tau {judge.tau:.5f}; exact to 1e-8: {judge.converged}")
    rows = []
    for plan in plans:
        task = Task(sets, plan.problem, judge.tau, judge.weights)
        entries = _tune_all(plan, task, judge, effort, _best_ladders(plan, effort))
        seconds = time_interleaved(entries, effort)
        peaks = [measure_memory(entry, case) if effort.memory else None for entry in entries]
        rows += [_row(case, *found) for found in zip(entries, seconds, peaks, strict=True)]
    return rows


def _best_ladders(plan: Plan, effort: Effort) -> dict[str, list[list[Setting]]]:
    """Returns for each solver the one ladder that was best at the smaller size."""
    if plan.tune_at is None:
        return {}
    sets = make_sets(plan.tune_at)
    judge = Judge(sets)
    say(f"inner iterations tuned at n = m = {plan.tune_at.n:,}")
    task = Task(sets, plan.problem, judge.tau, judge.weights)
    found = _tune_all(replace(plan, case=plan.tune_at), task, judge, effort, {})
    return {
        entry.name: [
            ladder for ladder in entry.contender.ladders(plan.problem) if ladder[0].inner == entry.setting.inner
        ]
        for entry in found
    }


def _tune_all(
    plan: Plan, task: Task, judge: Judge, effort: Effort, ladders: Mapping[str, list[list[Setting]]]
) -> list[Tuned]:
    entries = []
    for name in plan.names:
        contender = contenders()[name]
        reason = _obstacle(contender, plan)
        if reason:
            say(f"  {plan.problem}: {name} left out: {reason}")
            continue
        try:
            warm_up(contender, plan.case, plan.problem, contender.ladders(plan.problem)[0][0])
            allowed = ladders.get(name) or contender.ladders(plan.problem)
            entry = tune(contender, task, judge, effort.max_seconds, allowed)
        except Exception as error:  # noqa: BLE001 (a library that fails is a finding, not the end)
            say(f"  {plan.problem}: {name} failed: {type(error).__name__}: {error}")
            continue
        say(
            f"  {plan.problem}: {name} {entry.trial_seconds:.3f} s, tolerance {entry.setting.tolerance:.0e}, inner "
            f"{entry.setting.inner}, finished: {entry.answer.finished}, misses the goal by {entry.verdict.miss:.2g}"
        )
        entries.append(entry)
        if contender is UNROLLED:
            matched = match_unrolled(entry, judge, effort.max_seconds)
            if matched is None:
                say("  no tau gives sotune a sharp objective as low as the recipe's")
            entries += [] if matched is None else [matched]
    return entries


def _obstacle(contender: Contender, plan: Plan) -> str | None:
    case = plan.case
    if case.device not in contender.devices:
        return f"does not run on {case.device} here"
    needed, free = contender.matrices * case.n * case.m, free_bytes(case.device)
    if needed > 0.9 * free:
        return f"needs about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
    return contender.missing()


def _row(case: Case, entry: Tuned, seconds: list[float], peak: int | None) -> dict[str, Any]:
    verdict = asdict(entry.verdict)
    return {
        "solver": entry.name,
        "problem": entry.task.problem,
        "n": case.n,
        "m": case.m,
        "d": case.d,
        "iterations": entry.answer.iterations,
        "seconds": statistics.median(seconds),
        "peak_bytes": peak,
        **{key: value if value is None or math.isfinite(value) else None for key, value in verdict.items()},
        "reached": entry.succeeded,
        "tolerance": entry.setting.tolerance,
        "inner": entry.setting.inner,
        "tau": entry.task.tau,
        "runs": seconds,
        "threads": torch.get_num_threads(),
        "device": case.device,
    }


def say(text: str) -> None:
    """Prints progress."""
    print(text, file=sys.stderr, flush=True)


# --- The large problem ------------------------------------------------------------------------------------------------


def measure_scale(sizes: Sequence[int], exact_rows: int) -> list[dict[str, Any]]:
    """Weighs many rows from a mapped file, each size in a fresh process, and compares streamed with exact weights."""
    m, d = SCALE_SHAPE
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = Path(folder) / f"{n}.bin"
            write_rows(path, n, d)
            rows.append(_in_child(_weigh_file, path, n, m, d))
            path.unlink()
            print(_scale_line(rows[-1]), flush=True)
    rows.append(_in_child(_compare_streamed, exact_rows, m, d))
    print(f"streamed against exact at n = {exact_rows:,}: Spearman {rows[-1]['spearman']:.6f}", flush=True)
    return rows


def _in_child(target: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(sender, *arguments))
    child.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv()
    except EOFError:
        sys.exit(f"the measuring process ended with code {child.exitcode}, most likely for want of memory")
    finally:
        child.join()
    return row


def write_rows(path: Path, n: int, d: int) -> None:
    """Writes downstream rows as float32, a block at a time, the harmful tenth spread over the file."""
    clusters = Clusters(d, seed=0)
    with path.open("wb") as file:
        for start in range(0, n, 50_000):
            block = clusters.downstream(min(50_000, n - start))
            file.write(block.numpy().tobytes())
            say(f"  wrote {start + len(block):,} of {n:,} rows")


def _weigh_file(sender: Connection, path: Path, n: int, m: int, d: int) -> None:
    _set_threads()
    clusters = Clusters(d, seed=0)
    anchor, harmful = clusters.draw(N_ANCHOR, 0, 30), clusters.draw(m, 28, 40)
    downstream = torch.from_file(str(path), shared=True, size=n * d, dtype=torch.float32).view(n, d)
    settings = solver_settings(max_memory=SCALE_MEMORY)
    reset_peak()
    start = time.perf_counter()
    learned = learn_weights(downstream, anchor, harmful, settings, on_pass=functools.partial(_watch, start))
    seconds = time.perf_counter() - start
    peak = resident_bytes("VmHWM")
    say("\n  checking the column errors afresh")
    errors = [
        _fresh_error(downstream, y, reference.g, learned.weights)
        for y, reference in zip((anchor, harmful), learned.references, strict=True)
    ]
    sender.send(
        {
            "solver": "sotune_streamed" if learned.n_passes else "sotune",
            "problem": "push_pull",
            "n": n,
            "m": m,
            "d": d,
            "iterations": learned.n_sinkhorn_iters,
            "seconds": seconds,
            "peak_bytes": peak,
            "peak_is": "resident bytes of the whole process",
            "column_error": max(errors),
            "reported_error": max(learned.marginal_error(side) for side in ("pull", "push")),
            "objective": learned.objective,
            "stationarity": learned.stationarity,
            "effective_sample_size": learned.effective_sample_size,
            "passes": learned.n_passes,
            "tau": learned.tau,
            "reached": learned.converged,
            "threads": torch.get_num_threads(),
            "device": "cpu",
        }
    )


def _fresh_error(x: Tensor, y: Tensor, g: Tensor, weights: Tensor) -> float:
    cost, b = CosineCost(x, y), uniform(len(y), "cpu", x.dtype)
    f = extend_potential(cost, g, b, EPSILON)
    return column_error(cost, f, g, weights.to(x.dtype), b, EPSILON)


def _watch(start: float, number: int) -> Callable[[int, int], None]:
    told = 0.0

    def on_rows(done: int, total: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > 1 or done == total:
            told = now
            print(f"\r  {now - start:6.0f} s  pass {number}: {done:,} of {total:,} rows", end="", file=sys.stderr)

    return on_rows


def _compare_streamed(sender: Connection, n: int, m: int, d: int) -> None:
    _set_threads()
    clusters = Clusters(d, seed=0)
    sets = Sets(clusters.downstream(n), clusters.draw(N_ANCHOR, 0, 30), clusters.draw(m, 28, 40))
    memory = n * (m + N_ANCHOR) * 4
    start = time.perf_counter()
    exact = learn(sets, solver_settings(max_memory=2 * memory))
    middle = time.perf_counter()
    streamed = learn(sets, solver_settings(max_memory=memory // 10))
    seconds = time.perf_counter() - middle
    sender.send(
        {
            "solver": "sotune_streamed_small",
            "problem": "push_pull",
            "n": n,
            "m": m,
            "d": d,
            "iterations": streamed.n_sinkhorn_iters,
            "seconds": seconds,
            "seconds_exact": middle - start,
            "peak_bytes": None,
            "column_error": max(streamed.marginal_error(side) for side in ("pull", "push")),
            "objective": streamed.objective,
            "objective_exact": exact.objective,
            "spearman": spearman(streamed.weights, exact.weights),
            "passes": streamed.n_passes,
            "reached": streamed.converged and exact.converged,
            "threads": torch.get_num_threads(),
            "device": "cpu",
        }
    )


def _scale_line(row: dict[str, Any]) -> str:
    return (
        f"n = {row['n']:,}: {row['seconds']:.1f} s, {row['passes']} passes, column error {row['column_error']:.1e} "
        f"(reported {row['reported_error']:.1e}), peak {row['peak_bytes'] / 2**30:.2f} GiB resident, "
        f"converged: {row['reached']}"
    )


# --- Results ----------------------------------------------------------------------------------------------------------


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a table for each problem and size, fastest first, with ratios to sotune."""
    for key in dict.fromkeys((row["problem"], row["d"], row["n"], row["m"]) for row in rows):
        group = [row for row in rows if (row["problem"], row["d"], row["n"], row["m"]) == key]
        problem, d, n, m = key
        print(f"\n{problem}, n = {n:,}, m = {m:,}, d = {d}, {group[0]['threads']} threads, {group[0]['device']}")
        print(
            f"{'solver':28}{'seconds':>9}{'× ours':>8}{'peak MB':>9}{'kernels':>8}{'iters':>7}{'inner':>6}{'tol':>9}"
            f"{'column':>10}{'station.':>10}{'objective':>12}{'sharp':>11}{'Spearman':>10}"
        )
        ours = next((row["seconds"] for row in group if row["solver"] == "sotune"), None)
        for row in sorted(group, key=lambda row: row["seconds"]):
            print(_line(row, ours))


def _line(row: dict[str, Any], ours: float | None) -> str:
    ratio = "" if ours is None else f"{row['seconds'] / ours:.2f}"
    peak = row["peak_bytes"]
    megabytes, kernels = ("", "") if peak is None else (f"{peak / 1e6:.0f}", f"{peak / (4 * row['n'] * row['m']):.2f}")
    return (
        f"{row['solver']:28}{row['seconds']:9.3f}{ratio:>8}{megabytes:>9}{kernels:>8}{row['iterations']:7}"
        f"{row['inner'] or '':>6}{row['tolerance']:9.0e}{_number(row['column_error'], '.1e'):>10}"
        f"{_number(row['stationarity'], '.1e'):>10}{_number(row['objective'], '.7f'):>12}"
        f"{_number(row['sharp_objective'], '.6f'):>11}{_number(row['spearman'], '.6f'):>10}"
        + ("" if row["reached"] else "  goal not reached")
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws seconds against n on logarithmic axes, a panel for each problem and width, slopes in the legend."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError as error:
        say(f"no plot: {error}")
        return
    panels = list(dict.fromkeys((row["problem"], row["d"]) for row in rows))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(7 * len(panels), 6), squeeze=False)
    for axis, (problem, d) in zip(axes[0], panels, strict=True):
        group = [row for row in rows if (row["problem"], row["d"]) == (problem, d)]
        for name in dict.fromkeys(row["solver"] for row in group):
            points = sorted((row["n"], row["seconds"]) for row in group if row["solver"] == name)
            style = {"linewidth": 3, "color": "black"} if name == "sotune" else {"linewidth": 1}
            axis.loglog(*zip(*points, strict=True), marker="o", label=f"{name} {_slope(points)}", **style)
        axis.set(title=f"{problem}, d = {d}", xlabel="n = m", ylabel="seconds, median")
        axis.grid(visible=True, which="both", alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def _slope(points: Sequence[tuple[int, float]]) -> str:
    if len(points) < 2:
        return ""
    slope = statistics.linear_regression([math.log(n) for n, _ in points], [math.log(s) for _, s in points]).slope
    return f"(slope {slope:.2f})"


def write(rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Writes what is known so far."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


# --- The command line -------------------------------------------------------------------------------------------------


def quick_plans(device: str, names: Sequence[str]) -> list[Plan]:
    """Returns the small selection: the recipe at 2,000, ours and POT at 5,000."""
    small, large = Case(2000, 2000, 384, device), Case(5000, 5000, 384, device)
    both = tuple(name for name in names if name == "sotune" or name.startswith("pot_"))
    recipe = tuple(name for name in names if name in ("sotune", "unrolled"))
    return [
        Plan(small, "push_pull", recipe),
        Plan(large, "push_pull", both, tune_at=small),
        Plan(large, "single", both, tune_at=small),
    ]


def full_plans(sizes: Sequence[int], dims: Sequence[int], device: str, names: Sequence[str]) -> list[Plan]:
    """Returns all problems at all sizes."""
    known = contenders()
    return [
        Plan(Case(n, n, d, device), problem, tuple(name for name in names if problem in known[name].problems))
        for d in dims
        for n in sizes
        for problem in ("push_pull", "single")
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the recipe at 2,000² and POT at 5,000², d = 384")
    parser.add_argument("--json", type=Path, help="where to write the results; written after each size")
    parser.add_argument("--sizes", type=_numbers, default=[1000, 2000, 5000, 10_000, 20_000])
    parser.add_argument("--dims", type=_numbers, default=[384, 4096])
    parser.add_argument("--repeats", type=int, help="timed runs of each solver; 5, or 3 with --quick")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--solvers", help="names, or beginnings of names, separated by commas; all by default")
    parser.add_argument("--max-seconds", type=float, default=300, help="longest trial run of one solver")
    parser.add_argument("--cpu-seconds", action="store_true", help="count the processor's seconds, of all threads")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--plot", type=Path, help="where to write an SVG of seconds against n")
    parser.add_argument("--scale", action="store_true", help="only the large problem, streamed from a mapped file")
    parser.add_argument("--scale-sizes", type=_numbers, default=[500_000, 1_000_000])
    parser.add_argument("--scale-exact-rows", type=int, default=SCALE_EXACT_ROWS)
    return parser.parse_args()


def _pin_threads(threads: int) -> None:
    """Starts the script again where the thread count is not set: libraries read it when they are imported."""
    wanted = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    wanted["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    if threads == 1:
        wanted["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if any(os.environ.get(name, "") != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    _set_threads()


def _set_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _selected(wanted: str | None) -> list[str]:
    names = list(contenders())
    if wanted is None:
        return names
    parts = wanted.split(",")
    unknown = [part for part in parts if not any(name.startswith(part) for name in names)]
    if unknown:
        sys.exit(f"unknown solvers {unknown}; known: {', '.join(names)}")
    return [name for name in names if name in parts or any(name.startswith(p) for p in parts if p not in names)]


def _by_case(plans: Sequence[Plan]) -> Iterator[tuple[Case, list[Plan]]]:
    for case in dict.fromkeys(plan.case for plan in plans):
        yield case, [plan for plan in plans if plan.case == case]


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    args = _parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; nothing was measured")
        sys.exit(2)
    _pin_threads(args.threads)
    if args.cpu_seconds:
        Clock.read = staticmethod(time.process_time)
    if args.scale:
        write(measure_scale(args.scale_sizes, args.scale_exact_rows), args.json)
        return
    names = _selected(args.solvers)
    plans = quick_plans(args.device, names) if args.quick else full_plans(args.sizes, args.dims, args.device, names)
    repeats = args.repeats or (3 if args.quick else 5)
    once_seconds = QUICK_ONCE_SECONDS if args.quick else args.max_seconds
    effort = Effort(repeats, args.max_seconds, once_seconds, memory=not args.no_memory)
    rows: list[dict[str, Any]] = []
    for case, of_case in _by_case(plans):
        rows += run_case(case, of_case, effort)
        write(rows, args.json)
    print_tables(rows)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
