"""Three folds of the harmful reference, disjoint by prompt: to weigh with, to choose settings by, to measure with.

Which fold a row falls into depends on its own prompt and the seed alone, so it stays there when the reference grows.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from sotune.records import Record

LEAST_SENTINELS = 20
"""With fewer, even a measurement without one miss bounds the pass rate no lower than 14 % (95 %)."""

_FOLDS = ("reference", "tuning", "measuring", "unused")


@dataclass(frozen=True)
class Folds:
    """Positions of reference rows; those of one prompt are all in one fold.

    Attributes:
        reference: To weigh with.
        tuning: To choose settings by.
        measuring: To measure with, one row of each prompt: the answers to one prompt are no independent trials.
        unused: The other rows of the measuring prompts, which take part in nothing.
        safe: The same of the safe reference, by prompt as well: rows of one prompt share a fold, be they safe or
            harmful. ``None`` where none of it is kept back.
    """

    reference: tuple[int, ...]
    tuning: tuple[int, ...]
    measuring: tuple[int, ...]
    unused: tuple[int, ...]
    safe: Folds | None = field(default=None, repr=False)

    @property
    def solved(self) -> tuple[int, ...]:
        """What the final weights may look at: all but the measuring prompts, in input order."""
        return tuple(sorted((*self.reference, *self.tuning)))


def normalize_prompt(text: str) -> str:
    """Returns a prompt without what does not make it another one: case, spacing, compatibility forms.

    >>> normalize_prompt("How  to PICK a lock?")
    'how to pick a lock?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_records(records: Sequence[Record], *, seed: int, tuning_share: float, measuring_share: float) -> Folds:
    """Splits the rows of a reference by all that was said before the answer; see `split_by_prompt`.

    >>> rows = [Record.from_text(str(n), f"prompt {n}", "answer") for n in range(10)]
    >>> folds = split_records(rows, seed=0, tuning_share=0.2, measuring_share=0.3)
    >>> sorted((*folds.solved, *folds.measuring)) == list(range(10))
    True
    """
    prompts = ["\n".join(f"{m.role}: {m.content}" for m in record.prompt) for record in records]
    return split_by_prompt(prompts, seed=seed, tuning_share=tuning_share, measuring_share=measuring_share)


def split_by_prompt(prompts: Sequence[str], *, seed: int, tuning_share: float, measuring_share: float) -> Folds:
    """Splits rows by a hash of their normalized prompts.

    >>> split_by_prompt(["a", "b", "A ", "c", "d"], seed=0, tuning_share=0.2, measuring_share=0.5)
    Folds(reference=(1, 3), tuning=(0, 2), measuring=(4,), unused=())

    Args:
        prompts: The prompt of each row.
        seed: Changes the split.
        tuning_share: Share of the prompts that are to choose settings, in expectation.
        measuring_share: Share of the prompts that are to measure.
    """
    folds: dict[str, list[int]] = {name: [] for name in _FOLDS}
    rows_of: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        rows_of.setdefault(normalize_prompt(prompt), []).append(position)
    for prompt, rows in rows_of.items():
        place = _hash(f"{seed}:{prompt}")
        if place < measuring_share:
            chosen = min(rows, key=lambda row: _hash(f"{seed}:{rows.index(row)}:{prompt}"))
            folds["measuring"].append(chosen)
            folds["unused"] += [row for row in rows if row != chosen]
        else:
            folds["tuning" if place < measuring_share + tuning_share else "reference"] += rows
    reference, tuning, measuring, unused = (tuple(sorted(folds[name])) for name in _FOLDS)
    return Folds(reference, tuning, measuring, unused)


def _hash(text: str) -> float:
    """Returns a number in [0, 1) that is a function of the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
