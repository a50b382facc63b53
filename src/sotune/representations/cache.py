"""Representations on disk, named by what they depend on: the encoder's fingerprint and the text's SHA-256.

A cache is a folder of safetensors shards. Each is written atomically and holds vectors beside the keys of their texts,
so that a killed run loses one shard at most and nothing needs an index file that could disagree.

What is computed and written is decided in ``filling``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sotune.artifacts import atomic_path, cache_folder
from sotune.errors import ArtifactError
from sotune.representations.encoder import EncodedSet, find_keys, keys_from_hex, order_of

_N_NAMED = 5


def shared_cache() -> Path:
    """Returns the folder of the representations that all runs share."""
    return cache_folder("representations")


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
        with atomic_path(self._path(fingerprint, name)) as temporary:
            save_file(shard.tensors(), temporary, metadata={"sha256": shard.checksum()})

    def holds(self, fingerprint: str, name: str) -> bool:
        """Tells whether a shard of an encoder is there and whole."""
        path = self._path(fingerprint, name)
        return path.exists() and _fault(path) is None

    def index(self, fingerprint: str, names: Sequence[str] | None = None) -> CacheIndex:
        """Reads which texts lie in the named shards of an encoder, or in all of them.

        A text that lies in several shards is read from the first that is named.
        """
        paths = self.shards(fingerprint) if names is None else [self._path(fingerprint, name) for name in names]
        return CacheIndex([path for path in paths if path.exists()])

    def hand_over(self, fingerprint: str, names: Sequence[str], to: RepresentationCache) -> list[Path]:
        """Puts shards of an encoder into another cache too, as links where the file system can; returns their paths."""
        paths = [to._path(fingerprint, name) for name in names]
        for name, path in zip(names, paths, strict=True):
            own = self._path(fingerprint, name)
            if not (path.exists() and path.samefile(own)):
                link_or_copy(own, path)
        return paths

    def _path(self, fingerprint: str, name: str) -> Path:
        return self.folder / fingerprint / f"shard-{name}.safetensors"


class CacheIndex:
    """Where each cached text's vector lies, as flat arrays: some 50 bytes a text, for millions of texts.

    Of each shard only the keys are read at once; the rest is mapped, and its checksum compared, when a text in it is
    asked for. Damaged shards are warned of and left out.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        keys = {path: _read_keys(path) for path in paths}
        self._keys_of = {path: found for path, found in keys.items() if found is not None}
        self._lay_out()

    def __len__(self) -> int:
        return len(self._keys)

    def _lay_out(self) -> None:
        self._paths = tuple(self._keys_of)
        self._keys = np.concatenate([np.zeros((0, 32), np.uint8), *self._keys_of.values()])
        self._starts = np.cumsum([0, *(len(keys) for keys in self._keys_of.values())])
        self._order = order_of(self._keys)

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns the position of each text among all that are cached, or -1; keys are uint8 [n, 32]."""
        while True:
            positions = find_keys(keys, among=self._keys, order=self._order)
            damaged = [path for path in self._used(positions) if (fault := _fault(path)) and _warn(path, fault)]
            if not damaged:
                return positions
            self._keys_of = {path: found for path, found in self._keys_of.items() if path not in damaged}
            self._lay_out()

    def _used(self, positions: NDArray[np.int64]) -> list[Path]:
        numbers = np.unique(np.searchsorted(self._starts, positions[positions >= 0], side="right") - 1)
        return [self._paths[number] for number in numbers]

    def load(self, keys: Sequence[str], ids: Sequence[str]) -> EncodedSet:
        """Reads the vectors of some texts, in the given order, into memory.

        Args:
            keys: SHA-256 of the texts, in hexadecimal.
            ids: Of the rows, to name them.

        Raises:
            ArtifactError: A text is not cached, or none was asked for.
        """
        return self.map(keys_from_hex(keys), ids).load()

    def map(self, hashes: NDArray[np.uint8], ids: Sequence[str]) -> MappedSet:
        """Returns the vectors of some texts as rows that are read from the mapped files when they are asked for.

        Args:
            hashes: SHA-256 of the texts, uint8 [n, 32].
            ids: Of the rows, to name them.

        Raises:
            ArtifactError: A text is not cached, or none was asked for.
        """
        positions = self._positions(hashes, ids)
        shards = [_open(path) for path in self._used(positions)]
        rows = self._rows(positions, [shard.representations for shard in shards])
        truncated = torch.cat([shard.truncated for shard in shards]).numpy()
        return MappedSet(
            ids=ids,
            hashes=hashes,
            values=rows,
            truncated=truncated[rows.positions].astype(np.bool_),
            shards=tuple(_name(path) for path in self._used(positions)),
        )

    def _positions(self, hashes: NDArray[np.uint8], ids: Sequence[str]) -> NDArray[np.int64]:
        if not len(hashes):
            raise ArtifactError("no rows were requested; a set must hold at least one row")
        positions = self.find(hashes)
        missing = np.flatnonzero(positions < 0)
        if len(missing):
            named = [ids[row] for row in missing[:_N_NAMED]]
            raise ArtifactError(
                f"{len(missing)} rows have no cached representation (ids {named}); run `sotune extract` again"
            )
        return positions

    def _rows(self, positions: NDArray[np.int64], parts: Sequence[Tensor]) -> MappedRows:
        """Returns rows over the parts that hold them, in the order of the shards."""
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        used, part_of = np.unique(numbers, return_inverse=True)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return MappedRows(parts, starts, positions - self._starts[used][part_of] + starts[part_of])


@dataclass(frozen=True, slots=True)
class MappedSet:
    """An `EncodedSet` whose vectors are read from the cache's files when they are asked for."""

    ids: Sequence[str]
    hashes: NDArray[np.uint8]
    values: MappedRows
    truncated: NDArray[np.bool_]
    shards: tuple[str, ...]

    def load(self) -> EncodedSet:
        """Reads the vectors into memory."""
        return EncodedSet(tuple(self.ids), self.hashes, self.values[:], self.truncated, self.shards)


class MappedRows:
    """Rows ``[n, d]`` scattered over mapped files, gathered when a slice or some positions are asked for.

    Args:
        parts: Matrices of one width, mapped or in memory.
        starts: Number of rows before each part, and of all.
        positions: Where each row lies among the rows of all parts, ``[n]``.
        alone: Which rows are read as `answers_alone`, ``[n]``; ``None``: none.
        beside: Where the other half of each row lies, ``[n]``; where the row itself does: it has none.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        starts: NDArray[np.int64],
        positions: NDArray[np.int64],
        *,
        alone: NDArray[np.bool_] | None = None,
        beside: NDArray[np.int64] | None = None,
    ) -> None:
        self._parts, self._starts, self.positions, self._alone = parts, starts, positions, alone
        self._beside = beside

    def looked_at(self, alone: NDArray[np.bool_], joined: NDArray[np.int64]) -> MappedRows:
        """Returns the first of these rows as they are looked at: what stands beside some of them lies behind them all.

        Args:
            alone: Which are read as `answers_alone`, ``[n]``.
            joined: Those that have something beside them, in the order in which that lies, ``[k]``.
        """
        positions, behind = np.split(self.positions, [len(alone)])
        beside = positions.copy()
        beside[joined] = behind
        return MappedRows(
            self._parts,
            self._starts,
            positions,
            alone=alone if alone.any() else None,
            beside=beside if len(joined) else None,
        )

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
        asked = rows if isinstance(rows, slice) else rows.numpy()
        positions = self.positions[asked]
        values = self._gathered(positions)
        if self._alone is not None:
            flags = torch.from_numpy(self._alone[asked])
            values[flags] = answers_alone(values[flags])
        if self._beside is not None:
            beside = self._beside[asked]
            some = torch.from_numpy(np.flatnonzero(beside != positions))
            values[some] = (values[some] + self._gathered(beside[some.numpy()])) / 2
        return values

    def _gathered(self, positions: NDArray[np.int64]) -> Tensor:
        numbers = self._part_of(positions)
        values = torch.empty(len(positions), self.shape[1], dtype=self.dtype)
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            found = self._parts[number][torch.from_numpy(positions[here] - self._starts[number])]
            values[torch.from_numpy(here)] = found
        return values

    def _part_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, positions, side="right") - 1


def answers_alone(values: Tensor) -> Tensor:
    """Returns vectors ``[n, d]`` that read prompt and answer apart with the answer's half in both places.

    As if the answer were what was asked, too: a harmless prompt then speaks for no harmful answer.
    """
    answers = values[:, values.shape[1] // 2 :]
    return torch.cat([answers, answers], dim=1)


def is_intact_shard(path: Path) -> bool | None:
    """Tells whether a shard file holds what was written; None for a file of another name."""
    return _fault(path) is None if path.match("shard-*.safetensors") else None


def link_or_copy(path: Path, to: Path) -> None:
    """Makes a file appear at another path, atomically, without taking its space twice where that is possible."""
    with atomic_path(to) as temporary:
        temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, temporary)


def _name(path: Path) -> str:
    return path.stem.removeprefix("shard-")


def _read_keys(path: Path) -> NDArray[np.uint8] | None:
    """Reads which texts a shard holds; None, with a warning, where that cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            keys: NDArray[np.uint8] = file.get_tensor("keys")
    except (SafetensorError, OSError) as error:
        _warn(path, str(error))
        return None
    if keys.dtype == np.uint8 and keys.shape[1:] == (32,):
        return keys
    _warn(path, "its keys are no hashes")
    return None


def _open(path: Path) -> StoredShard:
    """Maps a shard file."""
    with safe_open(path, framework="pt") as file:
        return StoredShard(*(file.get_tensor(name) for name in ("keys", "representations", "truncated")))


def _fault(path: Path) -> str | None:
    """Returns what is wrong with a shard file, whose bytes must be those that were written; None if nothing is."""
    try:
        status = path.stat()
    except OSError as error:
        return str(error)
    return _found_fault(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _found_fault(path: Path, size: int, mtime_ns: int) -> str | None:
    # Every stage reads the cache; the many gigabytes of it are hashed once per process.
    try:
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get("sha256")
        return None if checksum == _open(path).checksum() else "its checksum does not match"
    except (SafetensorError, OSError) as error:
        return str(error)


def _warn(path: Path, fault: str) -> bool:
    warnings.warn(f"cache shard {path} is damaged ({fault}); its rows are computed again", stacklevel=4)
    return True
