"""Weights of rows that were never seen, from saved column potentials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sotune.artifacts import atomic_path
from sotune.errors import ArtifactError, ConfigError
from sotune.settings import WeightSettings
from sotune.transport import extend_potential
from sotune.weights.ground_cost import COSTS, GroundCost
from sotune.weights.nearest import least_costs
from sotune.weights.objective import Side
from sotune.weights.solution import LearnedWeights, mean_by_strength

_METADATA_KEY = "sotune"  # one key: the order of several is not fixed in the file format


@dataclass(frozen=True)
class Score:
    """Weights of some rows on the scale of the run that solved the potentials.

    Attributes:
        weights: ``exp(−G / tau − log_normalizer) / n``, ``[k]``: what a row would have weighed there.
        pull_potential: ``f`` towards the safe anchor, ``[k]``.
        push_potential: ``f`` towards the harmful reference, ``[k]``.
        unknown: Whether a row is beyond the reach of every set of references, so that its weight says little, ``[k]``.
    """

    weights: Tensor
    pull_potential: Tensor
    push_potential: Tensor
    unknown: Tensor


@dataclass(frozen=True)
class ScoredReference:
    """A reference with its column potential.

    Attributes:
        side: Whether it pulls or pushes.
        strength: Factor of its transport cost in the objective, ≥ 0.
        representations: ``[m, d]``.
        b: Mass of its rows, ``[m]``.
        g: Column potential, ``[m]``, in units of cost.
    """

    side: Side
    strength: float
    representations: Tensor
    b: Tensor
    g: Tensor


@dataclass(frozen=True)
class Scorer:
    """Column potentials and the references that they belong to: a function from representation to weight.

    Attributes:
        epsilon: Entropic strength, in units of cost.
        tau: Strength of the KL term.
        log_normalizer: ``log Σ_i u_i exp(−G_i / tau)`` over the rows that were solved.
        n: How many rows were solved.
        references: The references.
        cost: The ground cost, fitted.
        reaches: Of each set whose rows the references are, in their order: how many, and how far they reach
            (`sotune.weights.nearest.reach`); empty where that is not known.
    """

    epsilon: float
    tau: float
    log_normalizer: float
    n: int
    references: tuple[ScoredReference, ...]
    cost: GroundCost
    reaches: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_learned(
        cls,
        learned: LearnedWeights,
        *,
        settings: WeightSettings,
        references: Sequence[Tensor],
    ) -> Scorer:
        """Takes from learned weights what scoring needs.

        Args:
            learned: The weights.
            settings: How they were solved.
            references: Representations of the sets that pull and push, in the order in which they were given: anchors
                first. Several may make one of ``learned.references``.

        Raises:
            ConfigError: The weights have no tau, so they are no function of the potentials; or they were solved from
                cost matrices, which say nothing of other rows.
        """
        if learned.tau is None or learned.log_normalizer is None:
            raise ConfigError(
                f"weights of solver {settings.solver!r} are no function of the potentials, so unseen rows cannot "
                f"be scored; weigh with solver 'mirror' or 'one_step'"
            )
        return cls(
            epsilon=settings.epsilon,
            tau=learned.tau,
            log_normalizer=learned.log_normalizer,
            n=learned.weights.shape[0],
            references=tuple(
                ScoredReference(solved.side, solved.strength, representations, solved.b, solved.g)
                for solved, representations in zip(
                    learned.references,
                    torch.split(torch.cat(list(references)), [len(solved.g) for solved in learned.references]),
                    strict=True,
                )
            ),
            cost=learned.fitted_cost,
        )

    def score(self, representations: Tensor) -> Score:
        """Weighs rows ``[k, d]`` as the solved run would have; rows of that run get their own weights back.

        Raises:
            DataError: The width differs from that of the references, or a row is not finite.
        """
        potentials = [self._potential(representations, reference) for reference in self.references]
        gradient = sum(
            (r.strength if r.side == "pull" else -r.strength) * f.double()
            for r, f in zip(self.references, potentials, strict=True)
        )
        weights = (-torch.as_tensor(gradient) / self.tau - self.log_normalizer).exp() / self.n

        def mean(side: Side) -> Tensor:
            parts = [(r.strength, f) for r, f in zip(self.references, potentials, strict=True) if r.side == side]
            return mean_by_strength(parts, like=potentials[0])

        return Score(weights, mean("pull"), mean("push"), self._unknown(representations))

    def _unknown(self, representations: Tensor) -> Tensor:
        """Tells of each row whether it is beyond the reach of every set of references; of none where none is known."""
        beyond = torch.full((len(representations),), bool(self.reaches))
        if self.reaches:
            rows = torch.cat([reference.representations for reference in self.references])
            parts = torch.split(rows, [n for n, _ in self.reaches])
            for part, (_, reach) in zip(parts, self.reaches, strict=True):
                beyond &= (least_costs(self.cost.between(representations, part)) > reach).cpu()
        return beyond

    def _check(self) -> None:
        """Raises what comes of parts that do not fit together, or are no numbers: that of weighing a row."""
        weights = self.score(self.references[0].representations[:1]).weights
        if not (min(self.epsilon, self.tau, self.n) > 0 and len(weights) == 1 and not weights.isnan().any()):
            raise ValueError("they weigh a row of their own as no number")

    def _potential(self, representations: Tensor, reference: ScoredReference) -> Tensor:
        cost = self.cost.between(representations, reference.representations)
        return extend_potential(cost, reference.g, reference.b, self.epsilon)

    def save(self, path: Path) -> None:
        """Writes the scorer as one safetensors file, atomically."""
        from safetensors.torch import save_file

        tensors = {
            f"{name}.{number}": getattr(reference, name).contiguous()
            for number, reference in enumerate(self.references)
            for name in _TENSORS
        }
        of_cost = self.cost.state()
        learned = {name: value for name, value in of_cost.items() if isinstance(value, Tensor)}
        tensors |= {f"{_COST}.{name}": value.contiguous() for name, value in learned.items()}
        metadata = {
            _COST: {"name": self.cost.name, "numbers": {n: v for n, v in of_cost.items() if n not in learned}},
            **{name: getattr(self, name) for name in _NUMBERS},
            "references": [{"side": r.side, "strength": r.strength} for r in self.references],
            _REACHES: self.reaches,
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(metadata, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> Scorer:
        """Reads a scorer.

        Raises:
            ArtifactError: The file is missing or is not a scorer.
        """
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            raise ArtifactError(f"{path} is missing; run `sotune weigh` first")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads(file.metadata()[_METADATA_KEY])
                references = tuple(
                    ScoredReference(
                        described["side"],
                        float(described["strength"]),
                        *(file.get_tensor(f"{name}.{number}") for name in _TENSORS),
                    )
                    for number, described in enumerate(metadata["references"])
                )
                learned = {
                    key.removeprefix(f"{_COST}."): file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118 (the file is no mapping)
                    if key.startswith(f"{_COST}.")
                }
                cost = COSTS[metadata[_COST]["name"]].restore({**metadata[_COST]["numbers"], **learned})
            reaches = tuple((int(n), float(reach)) for n, reach in metadata[_REACHES])
            found = cls(
                **{name: metadata[name] for name in _NUMBERS}, references=references, cost=cost, reaches=reaches
            )
            found._check()
            return found
        except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{path} does not hold saved potentials ({error}); run `sotune weigh` again") from error


_TENSORS = ("representations", "b", "g")
_NUMBERS = ("epsilon", "tau", "log_normalizer", "n")
_REACHES = "reaches"
_COST = "cost"
