"""Representations on disk, named by what they depend on: the encoder's fingerprint and the text's SHA-256.

A cache is a folder of safetensors shards. Each is written atomically and holds vectors beside the keys of their texts,
so that a killed run loses one shard at most and nothing needs an index file that could disagree. A shard is named by
its texts and batches, so a run reads the shards of its own plan, whatever else is in the cache: its numbers depend on
its input alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sotune.artifacts import atomic_path
from sotune.errors import ArtifactError
from sotune.records import Record
from sotune.representations.base import (
    EncodedSet,
    Encoder,
    OnProgress,
    PreparedTexts,
    encode_batches,
    find_keys,
    keys_from_hex,
    plan_shards,
)

SHARD_ROWS = 512
_N_NAMED = 5


@dataclass(frozen=True, slots=True)
class StoredShard:
    """What one shard file holds.

    Attributes:
        keys: SHA-256 of the texts, uint8 [k, 32].
        representations: [k, d], float32.
        truncated: Whether each text was too long, uint8 [k].
    """

    keys: Tensor
    representations: Tensor
    truncated: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the names that they have in the file."""
        return {"keys": self.keys, "representations": self.representations, "truncated": self.truncated}

    def checksum(self) -> str:
        """SHA-256 of the shapes and bytes of the tensors."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
        return digest.hexdigest()


class RepresentationCache:
    """Shards of representations below one folder, in a subfolder for each encoder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def shards(self, fingerprint: str) -> list[Path]:
        """Returns all shard files of an encoder, sorted by name."""
        return sorted((self.folder / fingerprint).glob("shard-*.safetensors"))

    def path(self, fingerprint: str, name: str) -> Path:
        """Returns where the shard of that name lies."""
        return self.folder / fingerprint / f"shard-{name}.safetensors"

    def holds(self, fingerprint: str, name: str) -> bool:
        """Tells whether a shard is there with all its bytes as they were written; warns of one that is damaged."""
        path = self.path(fingerprint, name)
        if not path.exists():
            return False
        stored, checksum = _open_shard(path)
        if stored is None:
            return False
        if checksum != stored.checksum():
            _warn_damaged(path, "its checksum does not match")
            return False
        return True

    def write(self, fingerprint: str, name: str, shard: StoredShard) -> None:
        """Writes one shard, atomically; a damaged one of that name is replaced."""
        from safetensors.torch import save_file

        with atomic_path(self.path(fingerprint, name)) as temporary:
            save_file(shard.tensors(), temporary, metadata={"sha256": shard.checksum()})

    def index(self, fingerprint: str, names: Sequence[str] | None = None) -> CacheIndex:
        """Reads which texts lie in the named shards of an encoder, or in all of them; damaged ones are left out."""
        paths = self.shards(fingerprint) if names is None else [self.path(fingerprint, name) for name in names]
        opened = [(path, _open_shard(path)[0]) for path in paths if path.exists()]
        return CacheIndex([(path, stored) for path, stored in opened if stored is not None])

    def load(self, fingerprint: str, keys: Sequence[str]) -> Tensor:
        """Reads the vectors of texts that are cached, [n, d] float32, in the order of the keys.

        Raises:
            ArtifactError: A text is not cached.
        """
        return self.index(fingerprint).load(keys, keys).values


class CacheIndex:
    """Where each cached text's vector lies, as flat arrays: some 50 bytes a text, for millions of texts."""

    def __init__(self, shards: Sequence[tuple[Path, StoredShard]]) -> None:
        self._shards = shards
        sizes = [len(stored.keys) for _, stored in shards]
        self._keys = _concatenate([stored.keys.numpy() for _, stored in shards], np.zeros((0, 32), np.uint8))
        self._truncated = _concatenate([stored.truncated.numpy() for _, stored in shards], np.zeros(0, np.uint8))
        self._starts = np.cumsum([0, *sizes])

    def load(self, keys: Sequence[str], ids: Sequence[str]) -> EncodedSet:
        """Reads the vectors of some texts, in the given order; the files are mapped, not read whole.

        Args:
            keys: SHA-256 of the texts, in hexadecimal.
            ids: Of the rows, to name them.

        Raises:
            ArtifactError: A text is not cached, or none was asked for.
        """
        if not keys:
            raise ArtifactError("no rows were asked for; a set must hold at least one row")
        positions = find_keys(keys_from_hex(keys), among=self._keys)
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            named = [ids[row] for row in missing[:_N_NAMED]]
            raise ArtifactError(
                f"{len(missing)} rows have no cached representation (ids {named}); run `sotune extract` again"
            )
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        values = torch.empty(len(keys), self._shards[0][1].representations.shape[1])
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            rows = torch.from_numpy(positions[here] - self._starts[number])
            values[torch.from_numpy(here)] = self._shards[number][1].representations[rows]
        return EncodedSet(
            ids=tuple(ids),
            keys=tuple(keys),
            values=values,
            n_truncated=int(self._truncated[positions].sum()),
            shards=tuple(path.stem.removeprefix("shard-") for path, _ in self._shards),
        )


def encode_with_cache(
    encoder: Encoder,
    records: Sequence[Record],
    cache: RepresentationCache,
    *,
    progress: OnProgress | None = None,
    shard_rows: int = SHARD_ROWS,
) -> EncodedSet:
    """Encodes records, computing only those shards of their plan that the cache lacks.

    Args:
        encoder: Turns records into vectors.
        records: At least one; texts that occur twice are encoded once.
        cache: Where vectors are kept.
        progress: Called with the number of distinct texts done and of all.
        shard_rows: About how many rows are computed between two writes: what a kill can cost.

    Raises:
        DataError: There are no records, or a representation is NaN or infinite.
    """
    prepared = encoder.prepare(records)
    plan = plan_shards(prepared, batch_tokens=encoder.batch_tokens, shard_rows=shard_rows)
    done, total = 0, sum(len(shard.rows) for shard in plan)
    for shard in plan:
        if cache.holds(encoder.fingerprint, shard.name):
            done += len(shard.rows)
            if progress is not None:
                progress(done, total)
            continue
        parts = []
        for states in encode_batches(encoder, prepared, shard):
            parts.append(states)
            done += len(states)
            if progress is not None:
                progress(done, total)
        cache.write(encoder.fingerprint, shard.name, _stored(prepared, shard.rows, torch.cat(parts)))
    index = cache.index(encoder.fingerprint, [shard.name for shard in plan])
    return index.load([key.tobytes().hex() for key in prepared.keys], prepared.ids)


def _stored(prepared: PreparedTexts, rows: NDArray[np.int64], representations: Tensor) -> StoredShard:
    return StoredShard(
        keys=torch.from_numpy(prepared.keys[rows]),
        representations=representations,
        truncated=torch.from_numpy(prepared.truncated[rows].astype(np.uint8)),
    )


def _open_shard(path: Path) -> tuple[StoredShard | None, str]:
    """Maps a shard file and reads its checksum; None for one that is no whole shard."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = StoredShard(*(file.get_tensor(name) for name in ("keys", "representations", "truncated")))
            checksum = str((file.metadata() or {}).get("sha256"))
    except (SafetensorError, OSError) as error:
        _warn_damaged(path, str(error))
        return None, ""
    n = len(stored.keys)
    if stored.keys.shape != (n, 32) or len(stored.representations) != n or len(stored.truncated) != n:
        _warn_damaged(path, "its tensors do not belong together")
        return None, ""
    return stored, checksum


def _warn_damaged(path: Path, reason: str) -> None:
    warnings.warn(f"cache shard {path} is damaged ({reason}); what it held is computed again", stacklevel=4)


def _concatenate(arrays: Sequence[NDArray[np.uint8]], empty: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([empty, *arrays])
