"""Replay: rows of the safe reference are trained on besides, most of those that stand nearest to what was dropped.

Refusals and safe answers among the rows hold alignment (Bianchi et al., ICLR 2024, https://arxiv.org/abs/2309.07875).
Ours is which: where transport weighed the rows, each dropped row counts towards the rows of the safe reference that its
mass goes to, ``mass_j = Σ_{i dropped} P_ij / Σ_j' P_ij'`` over the three nearest of each, so that a dropped row is
replaced by safe rows that meet its prompt. The share says how many are replayed, the mass which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from sotune.errors import DataError
from sotune.methods.inputs import TrainInputs
from sotune.methods.method import Method, train_weighted
from sotune.methods.pairs import append_rows
from sotune.records import Record
from sotune.settings import StageSettings
from sotune.training import TrainResult


class ReplaySettings(StageSettings):
    """Replay: its own constants."""

    replay_share: float = Field(0.1, gt=0, le=1, description="Replayed rows in units of rows.")
    replay_by_mass: bool = Field(True, description="Whether transported mass says which; else all alike.")


def train(inputs: TrainInputs) -> TrainResult:
    """Trains on the rows and on those of the safe reference.

    Raises:
        DataError: There is no safe reference.
        SotuneError: Training diverged.
    """
    own = inputs.own(ReplaySettings)
    if not inputs.safe_reference:
        raise DataError("replay trains on rows of the safe reference, and there is none; give one with safe_reference")
    mass = {record.id: inputs.dropped_mass.get(record.id, 0.0) for record in inputs.safe_reference}
    if not own.replay_by_mass or not sum(mass.values()):
        mass = dict.fromkeys(mass, 1.0)
    n = max(1, round(own.replay_share * len(inputs.records)))
    return train_weighted(append_rows(inputs, replayed(inputs.safe_reference, apportion(mass, n))))


def apportion(mass: Mapping[str, float], n: int) -> dict[str, int]:
    """Divides ``n`` rows in proportion to mass, by largest remainders; of equal ones the first."""
    total = sum(mass.values())
    exact = {id: n * share / total for id, share in mass.items()}
    counts = {id: int(share) for id, share in exact.items()}
    left = sorted(exact, key=lambda id: counts[id] - exact[id])[: n - sum(counts.values())]
    return {id: count + (id in left) for id, count in counts.items()}


def replayed(rows: Sequence[Record], counts: Mapping[str, int]) -> list[Record]:
    """Returns the rows as often as their counts say, each under an id of its own."""
    times = [row for row in rows for _ in range(counts[row.id])]
    return [replace(row, id=f"replay-{place:05d}") for place, row in enumerate(times)]


METHODS = (
    Method(
        "replay",
        "replay",
        kind="ours",
        citation="Bianchi et al., Safety-tuned LLaMAs (ICLR 2024)",
        link="https://arxiv.org/abs/2309.07875",
        trainer=train,
        own_settings=(ReplaySettings,),
    ),
)
