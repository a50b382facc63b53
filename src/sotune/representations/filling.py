"""Encoding through the cache: what is computed, for which encoders, and in what order it is written.

Rows are worked through in blocks; the next is tokenized while one is encoded. Of a block only the texts are planned
that the cache lacks. Some whole shards being there does not change how the others are planned, so that a killed run
that starts again computes the same shards and ends with the same bytes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune import processes
from sotune.cluster import Engine
from sotune.errors import DataError
from sotune.record_store import ids_of
from sotune.records import Record
from sotune.representations.cache import MappedSet, RepresentationCache, StoredShard
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
    order_of,
    plan_shards,
    planned_tokens,
)

Announce = Callable[[str], None]

SHARD_ROWS = 512
BLOCK_ROWS = 8192
_FIRST_SECONDS = 10.0
"""Time after which the pace of the work is known."""

_Job = tuple[PreparedTexts, Shard, Sequence[int]]
"""A shard that is to be computed, the texts that its positions stand for, and for which members."""


class FillOptions(TypedDict, total=False):
    """How a cache is filled.

    Attributes:
        progress: Called with the number of rows done and of all.
        announce: Called once, if the work will take minutes, with a line that says what there is to do and how long.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.
        block_rows: How many rows are sorted by length together, and tokenized ahead.
        engine: Computes the shards elsewhere; this process does where there is none.
    """

    progress: OnProgress | None
    announce: Announce | None
    shard_rows: int
    block_rows: int
    engine: Engine | None


def encode_with_cache(
    encoder: Encoder, records: Sequence[Record], cache: RepresentationCache, **options: Unpack[FillOptions]
) -> EncodedSet:
    """Encodes records, computing only what the cache lacks; see `map_cache`."""
    (encoded,) = fill_cache(encoder, records, cache, **options)
    return encoded


def fill_cache(
    group: EncoderGroup, records: Sequence[Record], cache: RepresentationCache, **options: Unpack[FillOptions]
) -> Iterator[EncodedSet]:
    """Returns the vectors of each member in turn, read into memory when they are asked for; see `map_cache`."""
    return (member.load() for member in map_cache(group, records, cache, **options))


def map_cache(
    group: EncoderGroup, records: Sequence[Record], cache: RepresentationCache, **options: Unpack[FillOptions]
) -> Iterator[MappedSet]:
    """Sees to it that the cache holds the records' vectors of each member, in one pass over the texts.

    A shard that several members lack is computed once for all of them; no more than one shard of each is in memory.
    Several processes share the shards out, and read them when all are there.

    Args:
        group: Encoders that share their passes.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        **options: See `FillOptions`.

    Returns:
        The vectors of each member in turn; they stay in the cache's files until they are asked for.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    if not len(records):
        raise DataError("there are no records to encode; give at least one")
    filling = _Filling(group, cache, len(records), options.get("progress"), options.get("announce"))
    processes.barrier()  # all know what the cache holds before anyone writes
    prepared_ahead = _prepared_ahead(group, records, options.get("block_rows", BLOCK_ROWS))
    jobs = filling.jobs(prepared_ahead, options.get("shard_rows", SHARD_ROWS))
    engine = options.get("engine")
    computed = _here(group, jobs, filling) if engine is None else _elsewhere(engine, group, jobs, filling)
    for (prepared, shard, wanted), states in computed:
        for number, values in zip(wanted, states, strict=True):
            cache.write(group.members[number].fingerprint, shard.name, _stored(prepared, shard.rows, values))
        filling.add_done(len(shard.rows))
    processes.barrier()
    ids, hashes = ids_of(records), np.concatenate(filling.hashes)
    return (cache.index(member.fingerprint).map(hashes, ids) for member in group.members)


class _Filling:
    """What is to be computed, and how much of it is done."""

    def __init__(
        self,
        group: EncoderGroup,
        cache: RepresentationCache,
        total: int,
        progress: OnProgress | None,
        announce: Announce | None,
    ) -> None:
        self._group, self._total, self._progress = group, total, progress
        self.forecast = _Forecast(announce, total)
        self._known = [_Known(member.fingerprint, cache) for member in group.members]
        self._done = self._told = 0
        self.hashes: list[NDArray[np.uint8]] = []

    def jobs(self, blocks: Iterator[PreparedTexts], shard_rows: int) -> Iterator[_Job]:
        """Yields the shards that this process is to compute; every process plans the same ones."""
        numbers = itertools.count()
        for prepared in blocks:
            self.hashes.append(prepared.keys)
            lacking = [part.lacking(prepared.keys) for part in self._known]
            plan = plan_shards(
                prepared,
                batch_tokens=planned_tokens(self._group),
                shard_rows=shard_rows,
                wanted=np.logical_or.reduce(lacking),
            )
            self.forecast.plan(prepared, plan)
            self.add_done(len(prepared.ids) - sum(len(shard.rows) for shard in plan))
            for shard in plan:
                lack = [number for number, rows in enumerate(lacking) if rows[shard.rows].any()]
                wanted = [number for number in lack if self._known[number].add(shard, prepared.keys)]
                if next(numbers) % processes.size() == processes.rank() and wanted:
                    yield prepared, shard, wanted
                else:
                    self.add_done(len(shard.rows))

    def tell(self, n: int) -> None:
        """Tells that of what is being computed n rows are done."""
        if self._progress is not None and self._done + n > self._told:
            self._told = self._done + n
            self._progress(self._told, self._total)

    def add_done(self, n: int) -> None:
        """Tells that n more rows are done."""
        self.tell(n)
        self._done += n


def _prepared_ahead(group: EncoderGroup, records: Sequence[Record], block_rows: int) -> Iterator[PreparedTexts]:
    """Yields the records block by block, rendered and tokenized; the next block is prepared meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    def prepare(start: int) -> PreparedTexts:
        return group.prepare([*records[start : start + block_rows]])

    try:
        ahead = pool.submit(prepare, 0)
        for start in range(block_rows, len(records), block_rows):
            prepared, ahead = ahead.result(), pool.submit(prepare, start)
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

    def passed(self, prepared: PreparedTexts, rows: NDArray[np.int64]) -> None:
        """Takes note of rows that are encoded; speaks when the pace is known, as if all blocks were like those seen."""
        self._done += int(prepared.lengths[rows].sum())
        seconds = time.monotonic() - self._started
        if self._announce is None or seconds < _FIRST_SECONDS:
            return
        more = self._n_rows / self._seen
        minutes = seconds / self._done * (more * self._tokens / processes.size() - self._done) / 60
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
        self._added = [np.zeros((0, 32), np.uint8)]

    def lacking(self, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tells which texts the cache lacks, [n]."""
        added = np.concatenate(self._added)
        self._added = [added[order_of(added)]]  # of what is sorted already, sorting is cheap
        return (self._index.find(keys) < 0) & (find_keys(keys, among=self._added[0]) < 0)

    def add(self, shard: Shard, keys: NDArray[np.uint8]) -> bool:
        """Takes the texts of a shard as known; tells whether it must be computed, for another process may have."""
        self._added.append(keys[shard.rows])
        return not self._cache.holds(self.fingerprint, shard.name)


def _here(group: EncoderGroup, jobs: Iterator[_Job], filling: _Filling) -> Iterator[tuple[_Job, Sequence[Tensor]]]:
    """Yields each shard with its vectors, [k, d] for each of the wanted members."""
    room = Room()
    for job in jobs:
        prepared, shard, wanted = job
        computed = list[tuple[Tensor, ...]]()
        for states in encode_batches(group, prepared, shard, wanted=wanted, room=room):
            computed.append(states)
            filling.tell(sum(len(values[0]) for values in computed))
            filling.forecast.passed(prepared, shard.batches[len(computed) - 1])
        yield job, [torch.cat(batches) for batches in zip(*computed, strict=True)]


def _elsewhere(
    engine: Engine, group: EncoderGroup, jobs: Iterator[_Job], filling: _Filling
) -> Iterator[tuple[_Job, Sequence[Tensor]]]:
    """Yields the same as they come from an engine; each piece of work has the texts of its own shard alone."""
    waiting = dict[int, _Job]()

    def pieces() -> Iterator[_Job]:
        for number, job in enumerate(jobs):
            prepared, shard, wanted = waiting[number] = job
            starts = np.cumsum([0, *(len(batch) for batch in shard.batches)])
            batches = tuple(np.arange(start, end) for start, end in itertools.pairwise(starts))
            yield prepared.of(shard.rows), Shard(shard.name, batches), wanted

    for number, states in engine.map(partial(_encoding_by, group), pieces()):
        prepared, shard, wanted = waiting.pop(number)
        filling.forecast.passed(prepared, shard.rows)
        yield (prepared, shard, wanted), [torch.tensor(values) for values in states]


def _encoding_by(group: EncoderGroup) -> Callable[[_Job], list[NDArray[np.float32]]]:
    room = Room()

    def encode(job: _Job) -> list[NDArray[np.float32]]:
        prepared, shard, wanted = job
        batches = zip(*encode_batches(group, prepared, shard, wanted=wanted, room=room), strict=True)
        return [torch.cat(states).numpy() for states in batches]

    return encode


def _stored(prepared: PreparedTexts, rows: NDArray[np.int64], representations: Tensor) -> StoredShard:
    return StoredShard(
        keys=torch.from_numpy(prepared.keys[rows]),
        representations=representations,
        truncated=torch.from_numpy(prepared.truncated[rows].astype(np.uint8)),
    )
