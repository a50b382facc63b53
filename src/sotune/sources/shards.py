"""Which files make up a set: those of one split in a folder, or those that a pattern matches."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from sotune.errors import DataError
from sotune.sources import streams
from sotune.sources.options import DEFAULT_SPLIT
from sotune.sources.rows import shown_keys

KINDS = {
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".parquet": "Parquet",
}
"""The files that are read, by suffix; each may be compressed."""

SUFFIXES_TEXT = f"{', '.join(KINDS)}, each also with {', '.join(streams.SUFFIXES[:-1])} or {streams.SUFFIXES[-1]}"

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _SPLITS.items() for word in words}
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)")
_OWN_SPLIT = re.compile(rf"({'|'.join(_SPLIT_OF_WORD)})_\w+")
_Files = dict[Path, PurePath]
"""Paths, and what each is called below the folder of the set."""
_ABOUT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one set, all of one kind, in natural order.

    Attributes:
        files: At least one.
        notes: What the user should know about files that are missing or left out.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def suffix_of(path: PurePath) -> str:
    """Returns the suffix that tells the kind of a file, without the one that says how it is compressed."""
    return _plain(path).suffix


def is_pattern(source: str) -> bool:
    """Tells whether a source is a pattern of file names."""
    return glob.has_magic(source)


def in_folder(folder: Path, *, split: str) -> Shards:
    """Returns the files of one split of a folder and those in it; hidden ones and those about the data do not count.

    Raises:
        DataError: There is none, or they are of several kinds.
    """
    paths = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    paths = [path for path in paths if not _is_hidden(path.relative_to(folder)) and path.name not in _ABOUT_DATA]
    files = _data_files({path: path.relative_to(folder) for path in paths})
    return _choose(files, str(folder), split=split)


def of_pattern(pattern: str, *, split: str) -> Shards:
    """Returns the files that a pattern matches; of one split, where they are of several.

    Raises:
        DataError: There is none, or they are of several kinds.
    """
    paths = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]
    base = os.path.commonpath([path.parent for path in paths]) if paths else ""
    files = _data_files({path: path.relative_to(base) for path in paths})
    if split == DEFAULT_SPLIT and len({split_of(name) for name in files.values()}) == 1:
        return _of_one_kind(files, pattern, notes=())  # whoever names files of one split wants these
    return _choose(files, pattern, split=split)


def split_of(file: PurePath) -> str | None:
    """Returns the split that the name of a file says, or else the nearest folder above it; None: neither.

    >>> split_of(PurePath("data/train-00000-of-00002.parquet")), split_of(PurePath("dev/part-1.jsonl.gz"))
    ('train', 'validation')
    """
    stem = _plain(file).stem
    if (shard := _SHARD.fullmatch(stem)) and _OWN_SPLIT.fullmatch(shard["name"]):
        return shard["name"]  # train_sft and test_sft are splits of their own
    for part in (stem, *reversed(file.parts[:-1])):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_OF_WORD:
                return _SPLIT_OF_WORD[word]
    return None


def _choose(files: _Files, source: str, *, split: str) -> Shards:
    if not files:
        raise DataError(f"{source} holds no file of a known kind; known suffixes are {SUFFIXES_TEXT}")
    by_split: dict[str | None, _Files] = {}
    for path, name in files.items():
        by_split.setdefault(split_of(name), {})[path] = name
    others = sorted(name for name in by_split if name is not None)
    chosen = by_split.get(_SPLIT_OF_WORD.get(split, split)) or _called(split, files)
    if not chosen and not others and split == DEFAULT_SPLIT:
        chosen = files
    if not chosen:
        found = f"it has {', '.join(others)}" if others else "the names of its files tell of none"
        raise DataError(f"{source} has no split {split!r}; {found}: name it with --split, or name the files")
    return _of_one_kind(chosen, source, notes=_notes(chosen, by_split.get(None, {}), source))


def _called(split: str, files: _Files) -> _Files:
    """Returns the files that bear the very name, or stand in a folder that does."""
    return {path: name for path, name in files.items() if split in (_plain(name).stem, *name.parts[:-1])}


def _data_files(named: _Files) -> _Files:
    return {path: name for path, name in named.items() if suffix_of(path) in KINDS}


def _of_one_kind(files: _Files, source: str, *, notes: tuple[str, ...]) -> Shards:
    kinds = sorted({KINDS[suffix_of(path)] for path in files})
    if len(kinds) > 1:
        raise DataError(
            f"{source} holds files of several kinds ({', '.join(kinds)}); name those of one kind by a pattern, such "
            f"as 'FOLDER/*{suffix_of(next(iter(files)))}'"
        )
    twice = [name for name, count in Counter(_unpacked(path) for path in files).items() if count > 1]
    if twice:
        raise DataError(f"{source} holds {twice[0]} twice, in two compressions; leave one of them there")
    return Shards(tuple(sorted(files, key=_natural)), notes)


def _notes(chosen: _Files, unnamed: _Files, source: str) -> tuple[str, ...]:
    notes = []
    left_out = [path.name for path in unnamed if path not in chosen]
    if left_out:
        notes.append(
            f"{source}: {shown_keys(dict.fromkeys(sorted(left_out)))} not read, since the names say no split and "
            f"those of other files do"
        )
    return (*notes, *_missing_shards(chosen, source))


def _missing_shards(files: Iterable[Path], source: str) -> list[str]:
    sets: dict[tuple[str, str, str], set[int]] = {}
    for path in files:
        if shard := _SHARD.fullmatch(_plain(path).stem):
            sets.setdefault((str(path.parent), shard["name"], shard["count"]), set()).add(int(shard["number"]))
    return [
        f"{source}: only {len(numbers)} of the {int(count)} files {name}-*-of-{count} are here"
        for (_, name, count), numbers in sets.items()
        if len(numbers) < int(count)
    ]


def _unpacked(path: PurePath) -> PurePath:
    return path.with_suffix("") if path.suffix.lower() in streams.SUFFIXES else path


def _plain(path: PurePath) -> PurePath:
    return PurePath(_unpacked(path).name.lower())


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _natural(path: PurePath) -> list[tuple[bool, int, str]]:
    """Returns a key that sorts part-2 before part-10."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
