"""Encoding through the cache: what is computed, for which encoders, and in what order it is written.

A run plans all its texts, and a shard is named by its texts and batches. The run computes the shards of its plan that
are not there, apart from those whose texts all lie in shards of other plans. That rule reads nothing from the shards
that the run itself wrote, so a killed run that starts again decides as it did at first and ends with the same bytes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune import processes
from sotune.cluster import Engine
from sotune.records import Record
from sotune.representations.cache import CacheIndex, RepresentationCache, StoredShard
from sotune.representations.encoder import (
    EncodedSet,
    Encoder,
    EncoderGroup,
    OnProgress,
    PreparedTexts,
    Shard,
    encode_batches,
    plan_shards,
)

SHARD_ROWS = 512

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
    """Encodes records, computing only those shards of their plan whose texts the cache lacks.

    Args:
        encoder: Turns records into vectors.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of distinct texts done and of all.
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
    engine: Engine | None = None,
) -> Iterator[EncodedSet]:
    """Sees to it that the cache holds the records' vectors of each member, in one pass over the texts.

    A shard that several members lack is computed once for all of them; no more than one shard of each is in memory.
    Several processes share the shards out, and read them when all are there.

    Args:
        group: Encoders that share their passes.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of distinct texts done and of all.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.
        engine: Computes the shards elsewhere; ``None``: this process does.

    Returns:
        The vectors of each member in turn, read from the cache when they are asked for.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    prepared = group.prepare(records)
    plan = plan_shards(prepared, batch_tokens=group.members[0].batch_tokens, shard_rows=shard_rows)
    parts = [_Part(member.fingerprint, cache, prepared, plan) for member in group.members]
    own = {shard.name for shard in processes.share(plan)}
    lacks = [[number for number, part in enumerate(parts) if part.lacks(shard)] for shard in plan]
    jobs = [(shard, wanted) for shard, wanted in zip(plan, lacks, strict=True) if wanted and shard.name in own]
    total = sum(len(shard.rows) for shard in plan)
    done = total - sum(len(shard.rows) for shard, _ in jobs)
    _tell(progress, done, total)
    tell = functools.partial(_tell, progress, total=total)
    computed = _here(group, prepared, jobs, done, tell) if engine is None else _elsewhere(engine, group, prepared, jobs)
    for (shard, wanted), states in computed:
        for number, values in zip(wanted, states, strict=True):
            cache.write(parts[number].fingerprint, shard.name, _stored(prepared, shard.rows, values))
        done += len(shard.rows)
        tell(done)
    processes.barrier()
    keys = tuple(key.tobytes().hex() for key in prepared.keys)
    return (cache.index(part.fingerprint, part.shards).load(keys, prepared.ids) for part in parts)


class _Part:
    """What of a plan one encoder's part of the cache held before anything was written."""

    def __init__(
        self, fingerprint: str, cache: RepresentationCache, prepared: PreparedTexts, plan: Sequence[Shard]
    ) -> None:
        self.fingerprint = fingerprint
        cached = cache.read(fingerprint)
        planned = [shard.name for shard in plan]
        others = {name: shard for name, shard in cached.items() if name not in set(planned)}
        self.shards = (*planned, *others)
        self._cached = cached.keys()
        self._elsewhere = CacheIndex(others).find(prepared.keys) >= 0

    def lacks(self, shard: Shard) -> bool:
        """Tells whether a shard of the plan must be computed."""
        return shard.name not in self._cached and not self._elsewhere[shard.rows].all()


def _here(
    group: EncoderGroup, prepared: PreparedTexts, jobs: Sequence[_Job], done: int, tell: Callable[[int], None]
) -> Iterator[tuple[_Job, Sequence[Tensor]]]:
    """Yields each shard with its vectors, [k, d] for each of the wanted members."""
    for shard, wanted in jobs:
        computed: list[tuple[Tensor, ...]] = []
        for states in encode_batches(group, prepared, shard, wanted=wanted):
            computed.append(states)
            tell(done + sum(len(values[0]) for values in computed))
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
