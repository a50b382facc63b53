"""Which reading of the model represents the rows: that by which held-out references separate best.

Where there is a safe reference, harm must separate from plain rows and from safe answers to risky prompts alike: what
tells topics apart need not tell answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sotune.cluster import Engine
from sotune.errors import DataError
from sotune.records import SET_NAMES, Record, SetName
from sotune.representations import Encoder, EncoderGroup, OnProgress, RepresentationCache, fill_cache
from sotune.weights import held_out_contrast, held_out_separation

N_FOLDS = 5
SAMPLE_ROWS = 2000
"""Downstream rows that are encoded by every candidate; the others only by the one that is chosen."""
MARGIN = 0.01
"""A reading whose answers stand apart is preferred to others that are better by less: what it says of answers cannot be
said by prompts, which may differ in source between the references."""
_SEED = 0  # of the sample and of the folds; the choice is a function of the rows


@dataclass(frozen=True)
class Candidate:
    """One way to represent the rows.

    Attributes:
        encoder: Does it.
        separation: See `held_out_separation`; ``None`` where it could not be measured.
        contrast: See `held_out_contrast`; ``None`` where it could not be measured, or there is no safe reference.
        reason: Why there is no separation.
    """

    encoder: Encoder
    separation: float | None
    contrast: float | None = None
    reason: str | None = None

    @property
    def figure(self) -> float:
        """What it is chosen by: the separation, or the mean of separation and contrast; −1 where not measured."""
        if self.separation is None:
            return -1.0
        return self.separation if self.contrast is None else (self.separation + self.contrast) / 2

    def as_dict(self) -> dict[str, Any]:
        """Returns what is recorded of it."""
        described = {name: self.encoder.description[name] for name in ("layer", "pooling")}
        measured = {"separation": self.separation} | ({} if self.contrast is None else {"contrast": self.contrast})
        unmeasured = {} if self.reason is None else {"reason": self.reason}
        return {**described, "fingerprint": self.encoder.fingerprint, **measured, **unmeasured}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and among what.

    Attributes:
        encoder: The candidate of the largest figure, or one with the answer apart that is nearly as good; the first of
            equal ones, and of all where none could be measured.
        candidates: All, in the order in which they were given.
    """

    encoder: Encoder
    candidates: tuple[Candidate, ...]

    @property
    def measured(self) -> bool:
        """Whether any candidate could be measured."""
        return any(candidate.separation is not None for candidate in self.candidates)

    def as_dict(self) -> dict[str, Any]:
        """Returns what is recorded of it."""
        criterion = "AUROC of held-out harmful references against held-out anchors and downstream rows"
        if any(candidate.contrast is not None for candidate in self.candidates):
            criterion += " (separation) and against held-out safe references (contrast): their mean"
        return {
            "criterion": criterion,
            "n_folds": N_FOLDS,
            "fingerprint": self.encoder.fingerprint,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
        }


def choose_encoder(
    group: EncoderGroup,
    sets: Mapping[SetName, Sequence[Record]],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    announce: Callable[[str], None] | None = None,
    engine: Engine | None = None,
) -> Choice:
    """Encodes the references and some downstream rows by all members of a group, and chooses one.

    Args:
        group: The candidates; of equally good ones the first is taken.
        sets: The sets.
        cache: Where vectors are kept; all candidates' come from one pass over the texts.
        progress: Called with the number of rows done and of all.
        announce: Called with a line about what there is to do, if it will take minutes.
        engine: Computes the vectors elsewhere.

    Raises:
        DataError: A representation is NaN or infinite.
    """
    probed = {**sets, "downstream": _sample(sets["downstream"])}
    records = [record for name in SET_NAMES for record in probed.get(name, ())]
    filled = fill_cache(group, records, cache, progress=progress, announce=announce, engine=engine)
    candidates = tuple(
        _measure(encoder, encoded.values, probed) for encoder, encoded in zip(group.members, filled, strict=True)
    )
    best = max(candidates, key=lambda one: one.figure)
    apart = [one for one in candidates if one.encoder.answer_from > 0 and one.figure > best.figure - MARGIN]
    return Choice(max(apart or [best], key=lambda one: one.figure).encoder, candidates)


def _measure(encoder: Encoder, values: Tensor, sets: Mapping[SetName, Sequence[Record]]) -> Candidate:
    downstream, safe_anchor, harmful_reference, safe_reference = torch.split(
        values, [len(sets.get(name, ())) for name in SET_NAMES]
    )
    try:
        separation = held_out_separation(
            downstream,
            safe_anchor,
            harmful_reference,
            safe_prompts=[record.prompt for record in sets["safe_anchor"]],
            harmful_prompts=[record.prompt for record in sets["harmful_reference"]],
            n_folds=N_FOLDS,
            generator=torch.Generator().manual_seed(_SEED),
        )
    except DataError as error:  # a zero vector, or prompts that cannot be held out: not a candidate's equal
        return Candidate(encoder, None, reason=str(error))
    return Candidate(encoder, separation, _contrast(encoder, safe_reference, harmful_reference, sets))


def _contrast(
    encoder: Encoder, safe_reference: Tensor, harmful_reference: Tensor, sets: Mapping[SetName, Sequence[Record]]
) -> float | None:
    if len(safe_reference) == 0:
        return None
    start = int(encoder.answer_from * safe_reference.shape[1])
    try:
        return held_out_contrast(
            safe_reference[:, start:],
            harmful_reference[:, start:],
            safe_prompts=[record.prompt for record in sets["safe_reference"]],
            harmful_prompts=[record.prompt for record in sets["harmful_reference"]],
            n_folds=N_FOLDS,
            generator=torch.Generator().manual_seed(_SEED),
        )
    except DataError:
        return None


def _sample(records: Sequence[Record]) -> Sequence[Record]:
    if len(records) <= SAMPLE_ROWS:
        return records
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(_SEED))
    return [records[position] for position in order[:SAMPLE_ROWS].sort().values.tolist()]
