"""Which results of a run are fresh: made from what the run holds now, and not from what it held before.

Selecting again leaves the adapter that was trained on the rows selected before. It stays where it is, and counts again
if the same rows are selected again; until then it is *stale*: no verb takes it up or reports it, and each says what
mends it. Whether a stage is stale follows from the manifests alone: its key holds the digests of what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, sha256_file, write_text
from sotune.errors import ArtifactError
from sotune.run_files import ADAPTER, PAGE, STALE

_MENDED_BY = {
    "records": "select",
    "representations": "select",
    "weights": "select",
    "selection": "select",
    "training": "train",
    "evaluation": "evaluate",
    "report": "report",
}
"""The verb that brings each stage up to date, and first all that it is made from."""
_MADE_BY = {"records": "extract", "representations": "extract", "weights": "weigh"}
"""The verb that makes it at first, where that is another."""
_CALLED = {
    "records": "reading",
    "representations": "encoding",
    "weights": "weighing",
    "selection": "selection",
    "training": "training",
    "evaluation": "evaluation",
    "report": "report",
    "scores": "scoring",
}
_GONE = "?"
SCORED = "scores"
"""The stage of its own that scoring new rows is."""
MERGED = "merged"
"""That of the model with the adapter merged into it; each export is one too, see `exported`."""
_EXPORT = "export-"
_NOTE = "STALE.txt"
_OLD_PAGE = "report.stale.html"


class Freshness:
    """What the manifests of a run say when they are first asked; made anew for each question."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def fault(self, stage: str) -> str | None:
        """Returns the stage that was done again since, or else is no more; ``None``: the stage is not stale."""
        manifest = self._manifests[stage]
        upstream: Mapping[str, str] = manifest["key"].get("upstream", {})
        for maker in dict.fromkeys(self._owners[name] for name in upstream if name in self._owners):
            if (fault := self.fault(maker)) is not None:
                return fault
        changed = [name for name, digest in upstream.items() if self._digests.get(name) != digest]
        return self._owners.get(changed[0], _GONE) if changed else None

    def changed_file(self, stage: str) -> str | None:
        """Returns a file of a finished stage that is gone, or was changed since; ``None``: there is none."""
        outputs: Mapping[str, str] = self._manifests[stage]["outputs"]
        for name, digest in outputs.items():
            path = self._run.file(name)
            if not path.exists() or sha256_file(path) != digest:
                return name
        return None

    @property
    def finished(self) -> list[str]:
        """The stages that have finished, whether or not they are stale."""
        return list(self._manifests)

    @cached_property
    def _manifests(self) -> dict[str, Mapping[str, Any]]:
        return {stage: self._run.manifest(stage) for stage in self._run.stages()}

    @cached_property
    def _owners(self) -> dict[str, str]:
        return {name: stage for stage, manifest in self._manifests.items() for name in manifest["outputs"]}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: d for manifest in self._manifests.values() for name, d in manifest["outputs"].items()}


def exported(target: str) -> str:
    """Returns the stage of its own that an export for a tool is."""
    return f"{_EXPORT}{target}"


def is_fresh(run: RunFolder, stage: str, *, files: bool = True) -> bool:
    """Tells whether a stage has finished, from what the run holds now; with ``files``, also that its files stand."""
    found = Freshness(run)
    if stage not in found.finished or found.fault(stage) is not None:
        return False
    return not files or found.changed_file(stage) is None


def require_fresh(run: RunFolder, *stages: str) -> None:
    """Checks that what a verb reads is fresh.

    Raises:
        ArtifactError: A stage has not finished or is stale; the message says which command mends it.
    """
    found = Freshness(run)
    for stage in stages:
        if stage not in found.finished:
            made_by = _MADE_BY.get(stage) or _MENDED_BY[stage]
            raise ArtifactError(f"{run.path} holds no finished {_CALLED[stage]}; run `sotune {made_by}` first")
        run.manifest(stage)  # which must be as it was written
        if (fault := found.fault(stage)) is not None:
            raise ArtifactError(_told(run, stage, fault))
        if (name := found.changed_file(stage)) is not None:
            raise ArtifactError(f"{run.file(name)} is not as `sotune {_MENDED_BY[stage]}` left it; {_mend(run, stage)}")


def stale_stages(run: RunFolder) -> dict[str, str]:
    """Returns the finished stages that are stale, each with what is wrong and the command that mends it."""
    found = Freshness(run)
    return {
        stage: _told(run, stage, fault)
        for stage in found.finished
        if _is_known(stage) and (fault := found.fault(stage)) is not None
    }


def mark_stale(run: RunFolder) -> dict[str, str]:
    """Leaves a note by what is stale, for those who open files without asking sotune, and none by what is fresh."""
    stale = stale_stages(run)
    clear_marks(run)
    if "training" in stale and run.file(ADAPTER).is_dir():
        write_text(run.file(ADAPTER) / _NOTE, f"This adapter is stale: {stale['training']}.\n")
    if "report" in stale and run.file(PAGE).exists():
        run.file(PAGE).replace(run.file(_OLD_PAGE))
    if stale:
        STALE.write(run, stale)
    return stale


def clear_marks(run: RunFolder) -> None:
    """Takes the notes away, as before a stage is made anew."""
    marks = [run.file(STALE.name), run.file(ADAPTER) / _NOTE]
    if run.file(PAGE).exists():
        marks.append(run.file(_OLD_PAGE))
    for path in marks:
        path.unlink(missing_ok=True)


def check_adapter(folder: Path) -> None:
    """Checks that an adapter's folder, if it is that of a run, is not stale.

    Raises:
        ArtifactError: It is; the message says which command mends it.
    """
    try:
        run = RunFolder.open(folder.parent)
    except ArtifactError:
        return  # no run's
    if folder.name == ADAPTER and (said := stale_stages(run).get("training")) is not None:
        raise ArtifactError(f"{said}, or copy the adapter to a folder of its own to use it as it is")


def _is_known(stage: str) -> bool:
    return stage in (*_CALLED, MERGED) or stage.startswith(_EXPORT)


def _called(stage: str) -> str:
    return f"export to {stage.removeprefix(_EXPORT)}" if stage.startswith(_EXPORT) else _CALLED.get(stage, "merging")


def _told(run: RunFolder, stage: str, changed: str) -> str:
    why = f"the {_CALLED[changed]} has been done again since" if changed in _CALLED else "what it was made from is gone"
    return f"the {_called(stage)} of {run.path} is stale: {why}; {_mend(run, stage)}"


def _mend(run: RunFolder, stage: str) -> str:
    if stage == SCORED:
        return f"run `sotune score {run.path}` again with the same rows"
    if stage.startswith(_EXPORT):
        return f"run `sotune export {run.path} --to {stage.removeprefix(_EXPORT)}` again"
    if stage == MERGED:
        return f"run `sotune merge {run.path}` again"
    return f"run `sotune {_MENDED_BY[stage]} {run.path}`"
