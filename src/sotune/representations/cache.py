"""Representations on disk, named by what they depend on: the encoder's fingerprint and the text's SHA-256.

A cache is a folder of safetensors shards. Each is written atomically and holds vectors beside the keys of their texts,
so that a killed run loses one shard at most and nothing needs an index file that could disagree.

What is computed and written is decided in ``filling``.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sotune.artifacts import atomic_path
from sotune.errors import ArtifactError
from sotune.representations.encoder import EncodedSet, find_keys, keys_from_hex

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

    def write(self, fingerprint: str, name: str, shard: StoredShard) -> None:
        """Writes one shard, atomically; a damaged one of that name is replaced."""
        with atomic_path(self.folder / fingerprint / f"shard-{name}.safetensors") as temporary:
            save_file(shard.tensors(), temporary, metadata={"sha256": shard.checksum()})

    def read(self, fingerprint: str) -> dict[str, StoredShard]:
        """Maps all shards of an encoder, by name; warns of damaged ones and leaves them out."""
        opened = {path.stem.removeprefix("shard-"): _open_shard(path) for path in self.shards(fingerprint)}
        return {name: shard for name, shard in opened.items() if shard is not None}

    def index(self, fingerprint: str, names: Sequence[str] | None = None) -> CacheIndex:
        """Reads which texts lie in the named shards of an encoder, or in all of them.

        A text that lies in several shards is read from the first that is named.
        """
        shards = self.read(fingerprint)
        return CacheIndex({name: shards[name] for name in (shards if names is None else names) if name in shards})


class CacheIndex:
    """Where each cached text's vector lies, as flat arrays: some 50 bytes a text, for millions of texts."""

    def __init__(self, shards: Mapping[str, StoredShard]) -> None:
        self._names, self._shards = tuple(shards), tuple(shards.values())
        self._keys = np.concatenate([np.zeros((0, 32), np.uint8), *(shard.keys.numpy() for shard in self._shards)])
        self._truncated = np.concatenate([np.zeros(0, np.uint8), *(s.truncated.numpy() for s in self._shards)])
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in self._shards)])

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns the position of each text among all that are cached, or -1; keys are uint8 [n, 32]."""
        return find_keys(keys, among=self._keys)

    def load(self, keys: Sequence[str], ids: Sequence[str]) -> EncodedSet:
        """Reads the vectors of some texts, in the given order, into memory.

        Args:
            keys: SHA-256 of the texts, in hexadecimal.
            ids: Of the rows, to name them.

        Raises:
            ArtifactError: A text is not cached, or none was asked for.
        """
        rows = self.map(keys, ids)
        return EncodedSet(
            ids=tuple(ids),
            keys=tuple(keys),
            values=rows[slice(None)],
            n_truncated=int(self._truncated[rows.positions].sum()),
            shards=tuple(self._names[number] for number in rows.used_shards()),
        )

    def map(self, keys: Sequence[str], ids: Sequence[str]) -> MappedRows:
        """Returns the vectors of some texts as rows that are read from the mapped files when they are asked for.

        Args:
            keys: SHA-256 of the texts, in hexadecimal.
            ids: Of the rows, to name them.

        Raises:
            ArtifactError: A text is not cached, or none was asked for.
        """
        if not keys:
            raise ArtifactError("no rows were requested; a set must hold at least one row")
        positions = self.find(keys_from_hex(keys))
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            named = [ids[row] for row in missing[:_N_NAMED]]
            raise ArtifactError(
                f"{len(missing)} rows have no cached representation (ids {named}); run `sotune extract` again"
            )
        return MappedRows([shard.representations for shard in self._shards], self._starts, positions)


class MappedRows:
    """Rows ``[n, d]`` scattered over mapped files, gathered when a slice or some positions are asked for.

    Args:
        parts: Matrices of one width, mapped or in memory.
        starts: Number of rows before each part, and of all.
        positions: Where each row lies among the rows of all parts, ``[n]``.
    """

    def __init__(self, parts: Sequence[Tensor], starts: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        self._parts, self._starts, self.positions = parts, starts, positions

    @property
    def shape(self) -> torch.Size:
        """The pair ``(n, d)``."""
        return torch.Size((len(self.positions), self._parts[0].shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the rows."""
        return self._parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are handed out."""
        return self._parts[0].device

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Returns a copy of some rows, by a slice or by their positions."""
        positions = self.positions[rows if isinstance(rows, slice) else rows.numpy()]
        numbers = self._part_of(positions)
        values = torch.empty(len(positions), self.shape[1], dtype=self.dtype)
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            found = self._parts[number][torch.from_numpy(positions[here] - self._starts[number])]
            values[torch.from_numpy(here)] = found
        return values

    def used_shards(self) -> NDArray[np.int64]:
        """Returns the numbers of the parts that hold rows, sorted."""
        return np.unique(self._part_of(self.positions))

    def _part_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, positions, side="right") - 1


def is_intact_shard(path: Path) -> bool | None:
    """Tells whether a shard file holds what was written; None for a file of another name."""
    if not path.match("shard-*.safetensors"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return _open_shard(path) is not None


def _open_shard(path: Path) -> StoredShard | None:
    """Maps a shard file; None, with a warning, for one whose bytes are not those that were written."""
    try:
        with safe_open(path, framework="pt") as file:
            shard = StoredShard(*(file.get_tensor(name) for name in ("keys", "representations", "truncated")))
            checksum = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        reason = str(error)
    else:
        if checksum == shard.checksum():
            return shard
        reason = "its checksum does not match"
    warnings.warn(f"cache shard {path} is damaged ({reason}); its rows are computed again", stacklevel=4)
    return None
