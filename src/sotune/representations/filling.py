"""Encoding through the cache: what is computed, for which encoders, and in what order it is written.

Rows are worked through in blocks; the next is tokenized while one is encoded. Of a block only the texts are planned
that the cache lacks. Some whole shards being there does not change how the others are planned, so that a killed run
that starts again computes the same shards and ends with the same bytes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune import processes
from sotune.cluster import Engine
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

SHARD_ROWS = 512
BLOCK_ROWS = 8192

_Job = tuple[Shard, Sequence[int]]
_Piece = tuple[PreparedTexts, Shard, Sequence[int]]


def encode_with_cache(
    encoder: Encoder,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    shard_rows: int = SHARD_ROWS,
    engine: Engine | None = None,
) -> EncodedSet:
    """Encodes records, computing only what the cache lacks.

    Args:
        encoder: Turns records into vectors.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of rows done and of all.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.
        engine: Computes the shards elsewhere; ``None``: this process does.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    (encoded,) = fill_cache(encoder, records, cache, progress=progress, shard_rows=shard_rows, engine=engine)
    return encoded


def fill_cache(
    group: EncoderGroup,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    shard_rows: int = SHARD_ROWS,
    block_rows: int = BLOCK_ROWS,
    engine: Engine | None = None,
) -> Iterator[EncodedSet]:
    """Sees to it that the cache holds the records' vectors of each member, in one pass over the texts.

    A shard that several members lack is computed once for all of them; no more than one shard of each is in memory.
    Several processes share the shards out, and read them when all are there.

    Args:
        group: Encoders that share their passes.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of rows done and of all.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.
        block_rows: How many rows are sorted by length together, and tokenized ahead.
        engine: Computes the shards elsewhere; ``None``: this process does.

    Returns:
        The vectors of each member in turn, read from the cache when they are asked for.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    if not records:
        raise DataError("there are no records to encode; give at least one")
    known = [_Known(member.fingerprint, cache) for member in group.members]
    processes.barrier()  # all have looked before anyone writes, and so plan alike
    keys, room, done = list[str](), Room(), 0
    tell = functools.partial(_tell, progress, total=len(records))
    for prepared in _prepared_ahead(group, records, block_rows):
        jobs = _plan(group, prepared, known, shard_rows)
        done += len(prepared.ids) - sum(len(shard.rows) for shard, _ in jobs)
        tell(done)
        computed = (
            _here(group, prepared, jobs, room, done, tell)
            if engine is None
            else _elsewhere(engine, group, prepared, jobs)
        )
        for (shard, wanted), states in computed:
            for number, values in zip(wanted, states, strict=True):
                cache.write(known[number].fingerprint, shard.name, _stored(prepared, shard.rows, values))
            done += len(shard.rows)
            tell(done)
        keys += [key.tobytes().hex() for key in prepared.keys]
    processes.barrier()
    ids = tuple(record.id for record in records)
    return (cache.index(member.fingerprint).load(tuple(keys), ids) for member in group.members)


def _plan(group: EncoderGroup, prepared: PreparedTexts, known: Sequence[_Known], shard_rows: int) -> list[_Job]:
    """Returns this process's share of what the cache lacks of a block, each shard with the members that lack it."""
    lacking = [part.lacking(prepared.keys) for part in known]
    plan = plan_shards(
        prepared,
        batch_tokens=planned_tokens(group),
        shard_rows=shard_rows,
        wanted=np.logical_or.reduce(lacking),
    )
    own, jobs = {shard.name for shard in processes.share(plan)}, list[_Job]()
    for shard in plan:
        lack = [number for number, rows in enumerate(lacking) if rows[shard.rows].any()]
        wanted = [number for number in lack if known[number].add(shard, prepared.keys)]
        if wanted and shard.name in own:
            jobs.append((shard, wanted))
    return jobs


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


def _here(
    group: EncoderGroup,
    prepared: PreparedTexts,
    jobs: Sequence[_Job],
    room: Room,
    done: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[_Job, Sequence[Tensor]]]:
    """Yields each shard with its vectors, [k, d] for each of the wanted members."""
    for shard, wanted in jobs:
        computed: list[tuple[Tensor, ...]] = []
        for states in encode_batches(group, prepared, shard, wanted=wanted, room=room):
            computed.append(states)
            progress(done + sum(len(values[0]) for values in computed))
        done += len(shard.rows)
        yield (shard, wanted), [torch.cat(batches) for batches in zip(*computed, strict=True)]


def _elsewhere(
    engine: Engine, group: EncoderGroup, prepared: PreparedTexts, jobs: Sequence[_Job]
) -> Iterator[tuple[_Job, Sequence[Tensor]]]:
    """Yields the same as they come from an engine; it gets the texts of one shard at a time."""
    pieces = _Pieces(prepared, jobs)
    for number, states in engine.map(functools.partial(_encoding_by, group), pieces):
        yield jobs[number], [torch.from_numpy(values) for values in states]


class _Pieces(Sequence["_Piece"]):
    """Each shard with the texts of its own, made when it is handed out."""

    def __init__(self, prepared: PreparedTexts, jobs: Sequence[_Job]) -> None:
        self._prepared, self._jobs = prepared, jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, number: Any) -> Any:
        shard, wanted = self._jobs[number]
        starts = np.cumsum([0, *(len(batch) for batch in shard.batches)])
        batches = tuple(np.arange(start, end) for start, end in itertools.pairwise(starts))
        return self._prepared.of(shard.rows), Shard(shard.name, batches), wanted


def _encoding_by(group: EncoderGroup) -> Callable[[_Piece], list[NDArray[np.float32]]]:
    def encode(piece: _Piece) -> list[NDArray[np.float32]]:
        prepared, shard, wanted = piece
        batches = zip(*encode_batches(group, prepared, shard, wanted=wanted), strict=True)
        return [torch.cat(states).numpy() for states in batches]

    return encode


def _tell(progress: OnProgress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _stored(prepared: PreparedTexts, rows: NDArray[np.int64], representations: Tensor) -> StoredShard:
    return StoredShard(
        keys=torch.from_numpy(prepared.keys[rows]),
        representations=representations,
        truncated=torch.from_numpy(prepared.truncated[rows].astype(np.uint8)),
    )
