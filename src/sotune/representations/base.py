"""What an encoder is, and how its input is cut into batches that never change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sotune.errors import DataError
from sotune.records import Record

OnProgress = Callable[[int, int], None]


class Encoder(Protocol):
    """Turns records into vectors with a frozen model."""

    @property
    def description(self) -> Mapping[str, Any]:
        """Everything that the vectors depend on: model, revision, layer, pooling, template, limits, number type."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the description."""
        ...

    @property
    def batch_tokens(self) -> int:
        """How many tokens one batch may hold, padding included."""
        ...

    def key(self, record: Record) -> str:
        """Returns the SHA-256 of the rendered text: with the fingerprint, the name of the vector."""
        ...

    def measure(self, record: Record) -> Measure:
        """Returns how long the record is, and whether it is cut."""
        ...

    def encode(self, records: Sequence[Record]) -> Tensor:
        """Encodes one batch.

        Returns:
            Representations, ``[len(records), d]``, float32, on the CPU.
        """
        ...


@dataclass(frozen=True, slots=True)
class Measure:
    """Length of a record in tokens, after it was cut to the limit."""

    n_tokens: int
    truncated: bool


@dataclass(frozen=True)
class EncodedSet:
    """Representations of records, in the records' order.

    Attributes:
        ids: One id for each row.
        values: ``[n, d]``, float32.
        n_truncated: How many rows were too long and lost tokens.
    """

    ids: tuple[str, ...]
    values: Tensor
    n_truncated: int


@dataclass(frozen=True)
class PlannedRow:
    """One distinct text, with what sorts it."""

    key: str
    record: Record
    measure: Measure


def plan_shards(rows: Sequence[PlannedRow], *, batch_tokens: int, shard_rows: int) -> list[list[list[PlannedRow]]]:
    """Cuts distinct rows into shards of batches, as a function of the rows alone and not of what is cached.

    Rows are sorted by length, so that a batch holds little padding; a batch holds at most ``batch_tokens`` tokens with
    its padding, a shard whole batches up to about ``shard_rows`` rows. A run that resumes thus computes the very
    batches that it would have computed, and gets the same numbers.
    """
    shards: list[list[list[PlannedRow]]] = []
    size = shard_rows
    for batch in _batches(sorted(rows, key=lambda row: (row.measure.n_tokens, row.key)), batch_tokens):
        if size >= shard_rows:
            shards.append([])
            size = 0
        shards[-1].append(batch)
        size += len(batch)
    return shards


def _batches(rows: Sequence[PlannedRow], batch_tokens: int) -> Iterator[list[PlannedRow]]:
    batch: list[PlannedRow] = []
    for row in rows:
        if batch and (len(batch) + 1) * row.measure.n_tokens > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def check_finite(values: Tensor, records: Sequence[Record]) -> None:
    """Raises a DataError that names the rows whose representation is not finite."""
    bad = ~values.isfinite().all(dim=1)
    if bad.any():
        ids = [record.id for record, is_bad in zip(records, bad.tolist(), strict=True) if is_bad]
        raise DataError(
            f"{len(ids)} of {len(records)} rows of a batch have NaN or infinite representations (ids {ids[:5]}); "
            f"extract with --dtype float32, or drop those rows"
        )
