"""Weights of rows that were never seen, from saved column potentials."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sotune.artifacts import atomic_path
from sotune.errors import ArtifactError, ConfigError
from sotune.transport import COSTS, extend_potential
from sotune.weights.solution import LearnedWeights, SolverSettings

_METADATA_KEY = "sotune"  # one key: the order of several is not fixed in the file format


@dataclass(frozen=True)
class Score:
    """Weights of some rows on the scale of the run that solved the potentials.

    Attributes:
        weights: ``exp(−G / tau − log_normalizer) / n``, ``[k]``: what a row would have weighed there.
        pull_potential: ``f`` towards the safe anchor, ``[k]``.
        push_potential: ``f`` towards the harmful reference, ``[k]``.
    """

    weights: Tensor
    pull_potential: Tensor
    push_potential: Tensor


@dataclass(frozen=True)
class Scorer:
    """Column potentials and the references that they belong to: a function from representation to weight.

    Attributes:
        cost: Name of the ground cost.
        epsilon: Entropic strength, in units of cost.
        push_strength: The paper's λ.
        tau: Strength of the KL term.
        log_normalizer: ``log Σ_i u_i exp(−G_i / tau)`` over the rows that were solved.
        n: How many rows were solved.
        safe_anchor: Representations, ``[m_safe, d]``.
        harmful_reference: Representations, ``[m_harmful, d]``.
        pull_g: Column potential of the safe anchor, ``[m_safe]``.
        push_g: Column potential of the harmful reference, ``[m_harmful]``.
    """

    cost: str
    epsilon: float
    push_strength: float
    tau: float
    log_normalizer: float
    n: int
    safe_anchor: Tensor
    harmful_reference: Tensor
    pull_g: Tensor
    push_g: Tensor

    @classmethod
    def from_learned(
        cls,
        learned: LearnedWeights,
        *,
        settings: SolverSettings,
        cost: str,
        safe_anchor: Tensor,
        harmful_reference: Tensor,
    ) -> Scorer:
        """Takes from learned weights what scoring needs.

        Raises:
            ConfigError: The weights have no tau, so they are no function of the potentials.
        """
        if learned.tau is None or learned.log_normalizer is None:
            raise ConfigError(
                f"weights of the solver {settings.solver!r} are no function of the potentials, so unseen rows cannot "
                f"be scored; weigh with solver 'mirror' or 'one_step'"
            )
        return cls(
            cost=cost,
            epsilon=settings.epsilon,
            push_strength=settings.push_strength,
            tau=learned.tau,
            log_normalizer=learned.log_normalizer,
            n=learned.weights.shape[0],
            safe_anchor=safe_anchor,
            harmful_reference=harmful_reference,
            pull_g=learned.pull.g,
            push_g=learned.push.g,
        )

    def score(self, representations: Tensor) -> Score:
        """Weighs rows ``[k, d]`` as the solved run would have; rows of that run get their own weights back.

        Raises:
            DataError: The width differs from that of the references, or a row is not finite.
        """
        make_cost = COSTS[self.cost]
        pull_cost = make_cost(representations, self.safe_anchor)
        push_cost = make_cost(representations, self.harmful_reference)
        pull_b = torch.full_like(self.pull_g, 1 / self.pull_g.shape[0])
        push_b = torch.full_like(self.push_g, 1 / self.push_g.shape[0])
        pull = extend_potential(pull_cost, self.pull_g, pull_b, self.epsilon)
        push = extend_potential(push_cost, self.push_g, push_b, self.epsilon)
        gradient = (1 - self.push_strength) * pull - self.push_strength * push
        weights = (-gradient.double() / self.tau - self.log_normalizer).exp() / self.n
        return Score(weights=weights, pull_potential=pull, push_potential=push)

    def save(self, path: Path) -> None:
        """Writes the scorer as one safetensors file, atomically."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(numbers, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> Scorer:
        """Reads a scorer.

        Raises:
            ArtifactError: The file is missing or is not a scorer.
        """
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            raise ArtifactError(f"{path} is missing; run `sotune weigh` first, with a solver that has a tau")
        try:
            with safe_open(path, framework="pt") as file:
                numbers = json.loads(file.metadata()[_METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} does not hold saved potentials ({error}); run `sotune weigh` again") from error
        return cls(**numbers, **tensors)


_TENSORS = ("safe_anchor", "harmful_reference", "pull_g", "push_g")
_NUMBERS = ("cost", "epsilon", "push_strength", "tau", "log_normalizer", "n")
