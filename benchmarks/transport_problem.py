"""The problem that solvers are compared on, and the judge of what they find; see `transport`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sotune.settings import WeightSettings
from sotune.transport import (
    CosineCost,
    Kernel,
    SinkhornSolver,
    sweep,
)
from sotune.weights import LearnedWeights, learn_weights

ProblemName = Literal["push_pull", "single"]
EPSILON, PUSH_STRENGTH, SAMPLE_SIZE, N_ANCHOR = 0.1, 0.5, 0.9, 50
GOAL = 1e-4
MAX_OUTER, MAX_ITERS = 300, 3000
JUDGE_STORE = 4 << 30  # the judge computes larger kernels anew at each iteration


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
