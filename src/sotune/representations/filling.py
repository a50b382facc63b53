"""Encoding through the cache: what is computed, for which encoders, and in what order it is written.

A run plans all its texts, and a shard is named by its texts and batches. The run computes the shards of its plan that
are not there, apart from those whose texts all lie in shards of other plans. That rule reads nothing from the shards
that the run itself wrote, so a killed run that starts again decides as it did at first and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune import processes
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


def encode_with_cache(
    encoder: Encoder,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    shard_rows: int = SHARD_ROWS,
) -> EncodedSet:
    """Encodes records, computing only those shards of their plan whose texts the cache lacks.

    Args:
        encoder: Turns records into vectors.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of distinct texts done and of all.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    (encoded,) = fill_cache(encoder, records, cache, progress=progress, shard_rows=shard_rows)
    return encoded


def fill_cache(
    group: EncoderGroup,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    shard_rows: int = SHARD_ROWS,
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

    Returns:
        The vectors of each member in turn, read from the cache when they are asked for.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    prepared = group.prepare(records)
    plan = plan_shards(prepared, batch_tokens=group.members[0].batch_tokens, shard_rows=shard_rows)
    parts = [_Part(member.fingerprint, cache, prepared, plan) for member in group.members]
    done, total = 0, sum(len(shard.rows) for shard in plan)
    own = {shard.name for shard in processes.share(plan)}
    for shard in plan:
        wanted = [number for number, part in enumerate(parts) if shard.name in own and part.lacks(shard)]
        if wanted:
            computed: list[tuple[Tensor, ...]] = []
            for states in encode_batches(group, prepared, shard, wanted=wanted):
                computed.append(states)
                _tell(progress, done + sum(len(values[0]) for values in computed), total)
            for number, batches in zip(wanted, zip(*computed, strict=True), strict=True):
                cache.write(parts[number].fingerprint, shard.name, _stored(prepared, shard.rows, torch.cat(batches)))
        else:
            _tell(progress, done + len(shard.rows), total)
        done += len(shard.rows)
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


def _tell(progress: OnProgress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _stored(prepared: PreparedTexts, rows: NDArray[np.int64], representations: Tensor) -> StoredShard:
    return StoredShard(
        keys=torch.from_numpy(prepared.keys[rows]),
        representations=representations,
        truncated=torch.from_numpy(prepared.truncated[rows].astype(np.uint8)),
    )
