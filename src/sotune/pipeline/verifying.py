"""Whether the files of a run are those that were written, and belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import FORMAT, LOCK, MARKER, RunFolder, is_temporary
from sotune.errors import ArtifactError
from sotune.representations import is_intact_shard
from sotune.run_files import STALE

_OWN = (MARKER, LOCK, STALE.name)
"""What sotune writes and no manifest lists."""


@dataclass(frozen=True)
class Verification:
    """What a check of a run folder found.

    Attributes:
        folder: The folder.
        n_checked: How many files are as they were written.
        faults: File to what is wrong with it.
        unlisted: Files that no manifest lists and of which nothing can be said: the user's own, or an unfinished
            stage's.
    """

    folder: str
    n_checked: int
    faults: dict[str, str]
    unlisted: tuple[str, ...]


def verify(folder: str | Path) -> Verification:
    """Checks every file of a run folder, and of the run folders in it, against what was written; changes nothing.

    Raises:
        ArtifactError: The folder is no run, or something in it leads out of it.
    """
    run = RunFolder.open(Path(folder))
    checked, faults = set[str](), dict[str, str]()
    for marker in sorted(run.path.rglob(MARKER)):
        own = marker.parent.relative_to(run.path)
        inner, wrong = _check_folder(RunFolder(marker.parent))
        checked |= {str(own / name) for name in inner}
        faults |= {str(own / name): fault for name, fault in wrong.items()}
    rest = [path for path in sorted(run.path.rglob("*")) if path.is_file() and path.name not in _OWN]
    unlisted = []
    for path in rest:
        name = str(path.relative_to(run.path))
        if name in checked or name in faults or is_temporary(path):
            continue
        if (intact := is_intact_shard(path)) is None:
            unlisted.append(name)
        elif intact:
            checked.add(name)
        else:
            faults[name] = "its checksum does not match"
    return Verification(str(run.path), len(checked - faults.keys()), faults, tuple(unlisted))


def _check_folder(run: RunFolder) -> tuple[set[str], dict[str, str]]:
    """Returns the files of one run folder that are bookkeeping or listed by it, and what is wrong with some."""
    checked, faults, listed = set[str](), dict[str, str](), dict[str, str]()
    keys = dict[str, Mapping[str, Any]]()
    for stage in run.stages():
        name = run.manifest_path(stage).name
        checked.add(name)
        try:
            manifest = run.manifest(stage)
        except ArtifactError as error:
            faults[name] = str(error)
            continue
        if manifest["format"] > FORMAT:
            faults[name] = "written by a newer version; update sotune"
        keys[name] = manifest["key"]
        listed |= manifest["outputs"]
        faults |= {file: "missing, or not what was written" for file in run.damaged(stage)}
    for name, key in keys.items():
        odd = [file for file, digest in key.get("upstream", {}).items() if listed.get(file, digest) != digest]
        if odd:
            faults[name] = f"the stage was made from another {', '.join(sorted(odd))}"
    return checked | listed.keys(), faults
