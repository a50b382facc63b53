"""What lies on disk: the runs below a folder, and what of a run may be deleted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from sotune.artifacts import MARKER, RunFolder, contents_told
from sotune.errors import ArtifactError, SotuneError
from sotune.freshness import is_fresh, mark_stale, stale_stages
from sotune.run_files import CONFIG, EVALUATION, PROMISE

_CHECKPOINTS, _PARTS, _SHARDS = "checkpoints", "evaluation-parts", "representations"
_OLD_PAGE = "report.stale.html"
_CARDS = "report"  # writes the adapter's card, which goes with the adapter
_NEW_ENOUGH = 3600.0  # seconds that a file of an unfinished write is left alone


@dataclass(frozen=True)
class FoundRun:
    """A folder that sotune wrote.

    Attributes:
        folder: The folder.
        kind: What it holds.
        method: Of a run; empty for others.
        kept: Rows kept, of all; empty before the selection.
        done: The stages that are finished and fresh, in the order of the work.
        stale: Those that belong to an earlier state.
        n_bytes: What it takes up.
        changed: When it was changed last, seconds since 1970.
        fault: What is wrong with it; empty: nothing.
    """

    folder: str
    kind: Literal["run", "comparison", "evaluation", "empty"]
    method: str = ""
    kept: str = ""
    done: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    n_bytes: int = 0
    changed: float = 0.0
    fault: str = ""


@dataclass(frozen=True)
class Removable:
    """Something that may be deleted.

    Attributes:
        name: What it is.
        paths: Its files and folders.
        n_bytes: What deleting it frees.
        costs: What has to be done again afterwards, in words.
    """

    name: str
    paths: tuple[str, ...]
    n_bytes: int
    costs: str


def list_runs(folder: Path) -> list[FoundRun]:
    """Returns the runs, comparisons and evaluations below a folder; of a comparison not its cells.

    Raises:
        ArtifactError: There is no such folder.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder; name one that runs lie in")
    return [_describe(path) for path in _marked(folder)]


def _marked(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders.sort()
        if MARKER in files:
            folders.clear()
            yield Path(path)
        else:
            folders[:] = [name for name in folders if not name.startswith(".")]


def _describe(path: Path) -> FoundRun:
    n_bytes, changed = _size(path), path.stat().st_mtime
    try:
        run = RunFolder.open(path)
        if not (path / CONFIG.name).exists():
            kind: Literal["comparison", "evaluation", "empty"] = (
                "comparison"
                if (path / "cells").is_dir()
                else "evaluation"
                if (path / EVALUATION.name).exists()
                else "empty"
            )
            return FoundRun(str(path), kind, n_bytes=n_bytes, changed=changed)
        stale = stale_stages(run)
        done = [stage for stage in _ORDER if run.manifest_path(stage).exists() and stage not in stale]
        with contents_told(path):
            promise = PROMISE.read_if_there(run) if "selection" in done else {}
            kept = f"{promise['k']:,} of {promise['n']:,}" if promise else ""
        changed = max((p.stat().st_mtime for p in path.glob("*.manifest.json")), default=changed)
        method = str(CONFIG.read(run).get("method", ""))
        return FoundRun(str(path), "run", method, kept, tuple(done), tuple(stale), n_bytes, changed)
    except SotuneError as error:
        return FoundRun(str(path), "run", n_bytes=n_bytes, changed=changed, fault=str(error))


_ORDER = ("records", "representations", "weights", "selection", "training", "evaluation", "report")


def find_removable(folder: Path, *, representations: bool = False, checkpoints: bool = False) -> list[Removable]:
    """Returns what of a run may be deleted, with what that costs.

    Args:
        folder: A run folder.
        representations: Whether the vectors of its rows are among it, which any later verb would make again.
        checkpoints: Whether those of an unfinished training are.

    Raises:
        ArtifactError: The folder is no run.
    """
    run = RunFolder.open(folder)
    found: list[Removable] = []

    def add(name: str, paths: Sequence[Path], costs: str = "nothing") -> None:
        there = [path for path in paths if path.exists()]
        if there:
            found.append(Removable(name, tuple(map(str, there)), sum(map(_freed, there)), costs))

    old = time.time() - _NEW_ENOUGH
    add("files of writes that were killed", [p for p in folder.rglob(".*.tmp*") if p.stat().st_mtime < old])
    add("a page of an earlier state", [run.file(_OLD_PAGE)])
    for stage in stale_stages(run):
        again = {"training": "training, if the rows of before are selected again", "evaluation": "the same"}.get(stage)
        if stage != "report":
            add(f"the stale {stage}", _files_of(run, stage), again or "nothing")
    trained, evaluated = is_fresh(run, "training", files=False), is_fresh(run, "evaluation", files=False)
    if trained or checkpoints:
        add("checkpoints", [run.file(_CHECKPOINTS)], "nothing" if trained else "an unfinished training starts over")
    if evaluated:
        add("parts of an evaluation that is finished", [run.file(_PARTS)])
    if representations:
        add("representations", [run.file(_SHARDS)], "the next verb but report encodes all rows again")
    return found


def cache_contents(cache: Path) -> list[Removable]:
    """Returns what the cache that runs share holds, encoder by encoder."""
    if not cache.is_dir():
        return []
    return [
        Removable(f"shared representations of encoder {path.name}", (str(path),), _freed(path), "runs encode again")
        for path in sorted(cache.iterdir())
        if path.is_dir()
    ]


def remove(folder: Path, found: Sequence[Removable]) -> int:
    """Deletes what was found in a run, or in the shared cache; returns how many bytes that freed.

    Raises:
        ArtifactError: Another process is using the run.
    """
    if (folder / MARKER).exists():
        run = RunFolder.open(folder)
        with run.lock():
            freed = _remove(found)
            mark_stale(run)  # what was stale and is gone needs no note
            return freed
    return _remove(found)


def _remove(found: Sequence[Removable]) -> int:
    for one in found:
        for path in map(Path, one.paths):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return sum(one.n_bytes for one in found)


def _files_of(run: RunFolder, stage: str) -> list[Path]:
    """Returns the manifest of a stage and its files, whole folders where no other stage has files in them."""
    others = [name for other in run.stages() if other not in (stage, _CARDS) for name in run.digests(other)]
    own = {_own_part(name, others) for name in run.digests(stage)}
    return [run.manifest_path(stage), *(run.file(name) for name in sorted(own))]


def _own_part(name: str, others: Sequence[str]) -> str:
    """Returns the uppermost folder above a file that holds none of some others, or the file."""
    for folder in reversed(PurePosixPath(name).parents):
        if folder.name and not any(PurePosixPath(other).is_relative_to(folder) for other in others):
            return str(folder)
    return name


def _freed(path: Path) -> int:
    """Returns what deleting a path frees: a file that another run or the cache has a link to stays."""
    found = [path] if not path.is_dir() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.lstat().st_size for one in found if one.lstat().st_nlink == 1)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(one.lstat().st_size for one in path.rglob("*") if one.is_file() and not one.is_symlink())
