"""Which runs there are, and what of them may be deleted."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sotune.pipeline.run_folders import FoundRun, Removable


def list_runs(folder: str | PathLike[str] = ".") -> list[FoundRun]:
    """Returns the runs, comparisons and evaluations below a folder, each with what it holds.

    Raises:
        ArtifactError: There is no such folder.
    """
    from sotune.pipeline import run_folders

    return run_folders.list_runs(Path(folder))


def find_removable(
    run: str | PathLike[str], *, representations: bool = False, checkpoints: bool = False
) -> list[Removable]:
    """Returns what of a run may be deleted, what that frees, and what it costs; deletes nothing.

    Args:
        run: A run, or the path of its folder.
        representations: Whether the vectors of its rows are among it.
        checkpoints: Whether those of an unfinished training are.

    Raises:
        ArtifactError: The folder is no run.
    """
    from sotune.pipeline import run_folders

    return run_folders.find_removable(Path(run), representations=representations, checkpoints=checkpoints)


def find_cached() -> list[Removable]:
    """Returns what the cache holds that all runs share."""
    from sotune.pipeline import run_folders
    from sotune.representations.cache import shared_cache

    return run_folders.cache_contents(shared_cache())


def remove(run: str | PathLike[str], found: list[Removable]) -> int:
    """Deletes what was found; returns how many bytes that freed.

    Raises:
        ArtifactError: Another process is using the run.
    """
    from sotune.pipeline import run_folders

    return run_folders.remove(Path(run), found)
