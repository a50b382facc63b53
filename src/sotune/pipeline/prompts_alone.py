"""The rows without their answers: a sample of each set, for the control that only prompts are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from sotune.records import SET_NAMES, Message, Record, SetName

_MOST_ROWS = 400  # of each set: enough for a correlation, and a small part of the work
_LEAST_ROWS = 50
_NO_ANSWER = "..."


def sample_places(n: int) -> list[int]:
    """Returns the places of a sample: of many rows 400, of fewer a quarter or fifty, in order."""
    most = min(_MOST_ROWS, max(_LEAST_ROWS, n // 4))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return sorted(order[:most].tolist())


def sample_prompts(sets: Mapping[SetName, Sequence[Record]]) -> dict[SetName, list[Record]]:
    """Returns a sample of each encoded set, in which every answer is the same dots."""
    return {name: [_without_answer(sets[name][i]) for i in sample_places(len(sets[name]))] for name in SET_NAMES}


def _without_answer(record: Record) -> Record:
    learned = set(record.learned)
    turns = (Message("assistant", _NO_ANSWER) if i in learned else turn for i, turn in enumerate(record.messages))
    return replace(record, messages=tuple(turns))
