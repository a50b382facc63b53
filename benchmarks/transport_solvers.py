"""The solvers that are compared: ours, other libraries, each as its makers mean it, and the published recipe."""

from __future__ import annotations

import functools
import importlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sotune.transport import (
    CosineCost,
    OTProblem,
    sinkhorn,
)
from transport_problem import (
    EPSILON,
    GOAL,
    MAX_ITERS,
    MAX_OUTER,
    PUSH_STRENGTH,
    Answer,
    ProblemName,
    Setting,
    Task,
    learn,
    solver_settings,
    uniform,
)

TOLERANCES = (1e-4, 3e-5, 1e-5, 3e-6)
UNROLLED_OUTER, UNROLLED_INNER, UNROLLED_RATE = 10, 10, 0.1


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
