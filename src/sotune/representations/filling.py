"""Encoding through the cache: what is computed, for which encoders, and in what order it is written.

Rows are worked through in blocks; the next is tokenized while one is encoded. Of a block only the texts are planned
that the cache lacks. Some whole shards being there does not change how the others are planned, so that a killed run
that starts again computes the same shards and ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.errors import DataError
from sotune.records import Record
from sotune.representations.cache import RepresentationCache, StoredShard
from sotune.representations.encoder import (
    EncodedSet,
    Encoder,
    EncoderGroup,
    OnProgress,
    PreparedTexts,
    Room,
    Shard,
    encode_batches,
    find_keys,
    plan_shards,
    planned_tokens,
)

Announce = Callable[[str], None]

SHARD_ROWS = 512
BLOCK_ROWS = 8192
_FIRST_SECONDS = 10.0
"""Time after which the pace of the work is known."""


def encode_with_cache(
    encoder: Encoder,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    announce: Announce | None = None,
    shard_rows: int = SHARD_ROWS,
) -> EncodedSet:
    """Encodes records, computing only what the cache lacks.

    Args:
        encoder: Turns records into vectors.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of rows done and of all.
        announce: Called once, if the work will take minutes, with a line that says what there is to do and how long.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    (encoded,) = fill_cache(encoder, records, cache, progress=progress, announce=announce, shard_rows=shard_rows)
    return encoded


def fill_cache(
    group: EncoderGroup,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    announce: Announce | None = None,
    shard_rows: int = SHARD_ROWS,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[EncodedSet]:
    """Sees to it that the cache holds the records' vectors of each member, in one pass over the texts.

    A shard that several members lack is computed once for all of them; no more than one shard of each is in memory.

    Args:
        group: Encoders that share their passes.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of rows done and of all.
        announce: Called once, if the work will take minutes, with a line that says what there is to do and how long.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.
        block_rows: How many rows are sorted by length together, and tokenized ahead.

    Returns:
        The vectors of each member in turn, read from the cache when they are asked for.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    if not records:
        raise DataError("there are no records to encode; give at least one")
    known = [_Known(member.fingerprint, cache) for member in group.members]
    keys, room, done = list[str](), Room(), 0
    forecast = _Forecast(announce, len(records))
    for prepared in _prepared_ahead(group, records, block_rows):
        lacking = [part.lacking(prepared.keys) for part in known]
        missing, most = np.logical_or.reduce(lacking), planned_tokens(group)
        plan = plan_shards(prepared, batch_tokens=most, shard_rows=shard_rows, wanted=missing)
        forecast.plan(prepared, plan)
        done += len(prepared.ids) - sum(len(shard.rows) for shard in plan)
        if not plan:
            _tell(progress, done, len(records))
        for shard in plan:
            lack = [number for number, rows in enumerate(lacking) if rows[shard.rows].any()]
            wanted = [number for number in lack if known[number].add(shard, prepared.keys)]
            computed = list[tuple[Tensor, ...]]()
            for states in encode_batches(group, prepared, shard, wanted=wanted, room=room) if wanted else ():
                computed.append(states)
                _tell(progress, done + sum(len(values[0]) for values in computed), len(records))
                forecast.passed(int(prepared.lengths[shard.batches[len(computed) - 1]].sum()))
            for number, batches in zip(wanted, zip(*computed, strict=True), strict=True):
                cache.write(known[number].fingerprint, shard.name, _stored(prepared, shard.rows, torch.cat(batches)))
            done += len(shard.rows)
            if not wanted:
                _tell(progress, done, len(records))
        keys += [key.tobytes().hex() for key in prepared.keys]
    ids = tuple(record.id for record in records)
    return (cache.index(member.fingerprint).load(tuple(keys), ids) for member in group.members)


def _prepared_ahead(group: EncoderGroup, records: Sequence[Record], block_rows: int) -> Iterator[PreparedTexts]:
    """Yields the records block by block, rendered and tokenized; the next block is prepared meanwhile."""
    blocks = [records[start : start + block_rows] for start in range(0, len(records), block_rows)]
    pool = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
    try:
        ahead = pool.submit(group.prepare, blocks[0])
        for block in blocks[1:]:
            prepared, ahead = ahead.result(), pool.submit(group.prepare, block)
            yield prepared
        yield ahead.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Forecast:
    """Says once, after the first batches, what there is to encode and how long it will take."""

    def __init__(self, announce: Announce | None, n_rows: int) -> None:
        self._announce, self._n_rows = announce, n_rows
        self._seen = self._rows = self._tokens = self._done = 0
        self._started = 0.0

    def plan(self, prepared: PreparedTexts, plan: Sequence[Shard]) -> None:
        """Takes note of a block and what of it is to be encoded."""
        self._started = self._started or time.monotonic()
        self._seen += len(prepared.ids)
        self._rows += sum(len(shard.rows) for shard in plan)
        self._tokens += sum(int(prepared.lengths[shard.rows].sum()) for shard in plan)

    def passed(self, n_tokens: int) -> None:
        """Takes note of a batch; speaks when the pace is known. Blocks not seen yet count as those that are."""
        self._done += n_tokens
        seconds = time.monotonic() - self._started
        if self._announce is None or seconds < _FIRST_SECONDS:
            return
        more = self._n_rows / self._seen
        minutes = seconds / self._done * (more * self._tokens - self._done) / 60
        if minutes >= 1:
            about = "about " if more > 1 else ""
            self._announce(
                f"{about}{more * self._rows:,.0f} rows to encode, {more * self._tokens:,.0f} tokens: "
                f"{minutes:,.0f} min at {self._done / seconds:,.0f} tokens a second"
            )
        self._announce = None


class _Known:
    """Which texts of one encoder the cache held at the beginning, or has got since."""

    def __init__(self, fingerprint: str, cache: RepresentationCache) -> None:
        self.fingerprint = fingerprint
        self._cache, self._index = cache, cache.index(fingerprint)
        self._added = np.zeros((0, 32), np.uint8)

    def lacking(self, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tells which texts the cache lacks, [n]."""
        return (self._index.find(keys) < 0) & (find_keys(keys, among=self._added) < 0)

    def add(self, shard: Shard, keys: NDArray[np.uint8]) -> bool:
        """Takes the texts of a shard as known; tells whether it must be computed, for another process may have."""
        self._added = np.concatenate([self._added, keys[shard.rows]])
        return not self._cache.holds(self.fingerprint, shard.name)


def _tell(progress: OnProgress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _stored(prepared: PreparedTexts, rows: NDArray[np.int64], representations: Tensor) -> StoredShard:
    return StoredShard(
        keys=torch.from_numpy(prepared.keys[rows]),
        representations=representations,
        truncated=torch.from_numpy(prepared.truncated[rows].astype(np.uint8)),
    )
