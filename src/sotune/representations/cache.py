"""Representations on disk, named by what they depend on: the encoder's fingerprint and the text's SHA-256.

A cache is a folder of safetensors shards. Each is written atomically and holds vectors beside the keys of their texts,
so that a killed run loses one shard at most and nothing needs an index file that could disagree.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sotune.artifacts import atomic_path
from sotune.errors import ArtifactError
from sotune.records import Record
from sotune.representations.base import EncodedSet, Encoder, OnProgress, PlannedRow, plan_shards

SHARD_ROWS = 512
_KEY_TYPE = "S32"  # the 32 bytes of a SHA-256; NumPy compares them exactly, since all have one length


class RepresentationCache:
    """Shards of representations below one folder, in a subfolder for each encoder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def shards(self, fingerprint: str) -> list[Path]:
        """Returns the shard files of an encoder, sorted by name."""
        return sorted((self.folder / fingerprint).glob("shard-*.safetensors"))

    def write(self, fingerprint: str, keys: Sequence[str], values: Tensor, truncated: Sequence[bool]) -> None:
        """Writes one shard; its name is a hash of its keys, so writing it again changes nothing."""
        from safetensors.torch import save_file

        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        tensors = {
            "representations": values.contiguous(),
            "keys": torch.frombuffer(bytearray(bytes.fromhex("".join(keys))), dtype=torch.uint8).reshape(-1, 32),
            "truncated": torch.tensor(truncated, dtype=torch.uint8),
        }
        with atomic_path(self.folder / fingerprint / f"shard-{name}.safetensors") as temporary:
            save_file(tensors, temporary)

    def index(self, fingerprint: str) -> CacheIndex:
        """Reads which texts are cached. A shard that cannot be read is deleted with a warning, to be made again."""
        from safetensors import SafetensorError, safe_open

        files, keys, truncated = [], [], []
        for path in self.shards(fingerprint):
            try:
                with safe_open(path, framework="numpy") as file:
                    shard_keys, shard_truncated = file.get_tensor("keys"), file.get_tensor("truncated")
                    file.get_slice("representations").get_shape()
            except (SafetensorError, OSError, IndexError) as error:
                warnings.warn(f"cache shard {path.name} is damaged ({error}); it is computed again", stacklevel=2)
                path.unlink()
                continue
            files.append(path)
            keys.append(np.ascontiguousarray(shard_keys).view(_KEY_TYPE).ravel())
            truncated.append(shard_truncated)
        return CacheIndex(files, keys, truncated)


class CacheIndex:
    """Where each cached text's vector lies, as one sorted array: small even for millions of rows."""

    def __init__(self, files: list[Path], keys: list[np.ndarray], truncated: list[np.ndarray]) -> None:
        self._files = files
        flat = np.concatenate([np.empty(0, _KEY_TYPE), *keys])
        order = np.argsort(flat, kind="stable")
        self._keys = flat[order]
        self._shard = np.concatenate([np.empty(0, int), *(np.full(len(k), i) for i, k in enumerate(keys))])[order]
        self._row = np.concatenate([np.empty(0, int), *(np.arange(len(k)) for k in keys)])[order]
        self._truncated = np.concatenate([np.empty(0, np.uint8), *truncated])[order]

    def find(self, keys: Sequence[str]) -> np.ndarray:
        """Returns the position of each key in the index, or -1."""
        wanted = np.frombuffer(bytes.fromhex("".join(keys)), dtype=_KEY_TYPE)
        if not len(self._keys):
            return np.full(len(keys), -1)
        position = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[position] == wanted, position, -1)

    def load(self, keys: Sequence[str], ids: Sequence[str]) -> EncodedSet:
        """Reads the vectors of some texts, in the given order, shard by shard.

        Raises:
            ArtifactError: A text is not cached.
        """
        from safetensors import safe_open

        position = self.find(keys)
        if (position < 0).any():
            missing = [ids[i] for i in np.flatnonzero(position < 0)[:5]]
            raise ArtifactError(
                f"{int((position < 0).sum())} rows have no cached representation (ids {missing}); run `sotune extract` "
                f"again"
            )
        shard, row = self._shard[position], self._row[position]
        values: Tensor | None = None
        for number in np.unique(shard):
            with safe_open(self._files[number], framework="pt") as file:
                tensor = file.get_tensor("representations")
            if values is None:
                values = torch.empty(len(keys), tensor.shape[1])
            here = torch.from_numpy(np.flatnonzero(shard == number))
            values[here] = tensor[torch.from_numpy(row[here.numpy()])]
        if values is None:
            raise ArtifactError("no rows were asked for; a set must hold at least one row")
        return EncodedSet(tuple(ids), values, int(self._truncated[position].sum()))


def encode_with_cache(
    encoder: Encoder, records: Sequence[Record], cache: RepresentationCache, *, progress: OnProgress | None = None
) -> EncodedSet:
    """Encodes records, computing only the shards of which a text is not cached yet.

    Args:
        encoder: Turns records into vectors.
        records: Any number; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of distinct rows done and their total.

    Raises:
        DataError: A representation is NaN or infinite.
    """
    keys = [encoder.key(record) for record in records]
    index = cache.index(encoder.fingerprint)
    if (index.find(keys) < 0).any():
        _encode_missing(encoder, dict(zip(keys, records, strict=True)), index, cache, progress)
        index = cache.index(encoder.fingerprint)
    return index.load(keys, [record.id for record in records])


def _encode_missing(
    encoder: Encoder,
    distinct: dict[str, Record],
    index: CacheIndex,
    cache: RepresentationCache,
    progress: OnProgress | None,
) -> None:
    rows = [PlannedRow(key, record, encoder.measure(record)) for key, record in distinct.items()]
    done = 0
    for shard in plan_shards(rows, batch_tokens=encoder.batch_tokens, shard_rows=SHARD_ROWS):
        members = [row for batch in shard for row in batch]
        if (index.find([row.key for row in members]) < 0).any():
            parts = []
            for batch in shard:
                parts.append(encoder.encode([row.record for row in batch]))
                done += len(batch)
                if progress:
                    progress(done, len(rows))
            cache.write(
                encoder.fingerprint,
                [row.key for row in members],
                torch.cat(parts),
                [row.measure.truncated for row in members],
            )
        else:
            done += len(members)
            if progress:
                progress(done, len(rows))
