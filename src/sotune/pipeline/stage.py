"""What a stage is, and the loop that skips, resumes or runs it."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sotune.artifacts import RunFolder, disk_faults_told, library_versions
from sotune.errors import ArtifactError
from sotune.monitoring import Monitor
from sotune.run_files import CONFIG
from sotune.settings import RunConfig

Key = Mapping[str, Any]
Figures = dict[str, str]


@dataclass(frozen=True)
class Stage:
    """One step of the path from data to report.

    Attributes:
        name: Names the manifest.
        title: What the user reads.
        after: The stage whose outputs it reads.
        reads: Stages whose outputs it reads too where they have finished.
        version: Of what the stage computes; a higher one never takes up what a lower one left.
        key: Everything that the outputs depend on, besides those of the stage before.
        work: Does it; resumes what an interrupted run left.
        summarize: Figures for the closing table, read from the artefacts.
    """

    name: str
    title: str
    after: str | None
    key: Callable[[RunConfig], Key]
    work: Callable[[RunConfig, RunFolder, Monitor], Sequence[str]]
    summarize: Callable[[RunFolder], Figures]
    reads: tuple[str, ...] = ()
    version: int = 1

    def full_key(self, config: RunConfig, run: RunFolder) -> dict[str, Any]:
        """Returns the stage's key with the digests of what it reads."""
        upstream = dict(run.digests(self.after)) if self.after else {}
        for name in self.reads:
            if run.manifest_path(name).exists():
                upstream |= run.digests(name)
        own = {"stage": self.version, "upstream": upstream, "versions": library_versions("sotune")}
        return {**self.key(config), **own}


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage: ``done``, ``skipped``, or in a plan ``current`` or ``to do``."""

    stage: str
    title: str
    status: Literal["done", "skipped", "current", "to do"]
    seconds: float
    figures: Figures


@dataclass(frozen=True)
class RunSummary:
    """What a command did, and the files that it wrote."""

    folder: str
    stages: tuple[StageOutcome, ...]
    files: tuple[str, ...]


def run_stages(
    stages: Sequence[Stage], config: RunConfig, monitor: Monitor, *, later: Mapping[str, Sequence[str]]
) -> RunSummary:
    """Brings stages up to date, in order: skips what is current, resumes or runs the rest.

    Args:
        stages: What to bring up to date.
        config: The settings.
        monitor: Receives progress.
        later: For each stage the names of those after it: their manifests go when it runs again, since what they were
            made from is no more.

    Raises:
        ArtifactError: The folder is another process's, or not a run folder.
    """
    run = RunFolder(Path(config.out))
    outcomes, files = [], []
    with run.lock():
        for stage in stages:
            key = stage.full_key(config, run)
            started = time.monotonic()
            current = run.is_current(stage.name, key)
            monitor.stage(stage.title, "skipped" if current else "running")
            if not current:
                if damaged := run.damaged(stage.name):
                    monitor.warn(f"{', '.join(damaged)} in {run.path} changed since it was written; it is made anew")
                with forwarded_warnings(monitor), disk_faults_told(run.path):
                    outputs = stage.work(config, run, monitor)
                if stage.full_key(config, run) != key:
                    raise ArtifactError(
                        f"the data or the model changed while they were read ({stage.title}); run again when nothing "
                        f"else writes to them"
                    )
                # Only now is what came after it stale: a command that fails must not cost what stood there before.
                for name in later[stage.name]:
                    run.discard(name)
                with disk_faults_told(run.path):
                    run.commit(stage.name, key, outputs)
                    run.commit_config(CONFIG, config.model_dump(mode="json"))
            seconds = time.monotonic() - started
            status: Literal["skipped", "done"] = "skipped" if current else "done"
            outcomes.append(StageOutcome(stage.name, stage.title, status, seconds, stage.summarize(run)))
            if not current:
                files += [str(run.file(name)) for name in run.digests(stage.name) if "/" not in name]
    return RunSummary(folder=str(run.path), stages=tuple(outcomes), files=tuple(files))


def plan_stages(stages: Sequence[Stage], config: RunConfig) -> RunSummary:
    """Tells which stages would run, and touches nothing.

    A stage after one that would run is ``to do`` too: what it reads will have changed.
    """
    outcomes = []
    stale = False
    for stage in stages:
        if not stale:
            try:
                run = RunFolder.open(Path(config.out))
                stale = not run.is_current(stage.name, stage.full_key(config, run))
            except ArtifactError:
                stale = True
        outcomes.append(StageOutcome(stage.name, stage.title, "to do" if stale else "current", 0.0, {}))
    return RunSummary(folder=config.out, stages=tuple(outcomes), files=())


@contextlib.contextmanager
def forwarded_warnings(monitor: Monitor) -> Iterator[list[str]]:
    """Passes each distinct warning of Python to the monitor when the block ends; they are then in the list too."""
    messages: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
    finally:
        messages += dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
        for message in messages:
            monitor.warn(message)
