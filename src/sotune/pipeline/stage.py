"""What a stage is, and the loop that skips, resumes or runs it."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sotune import processes
from sotune.artifacts import RunFolder, contents_told, disk_faults_told, library_versions
from sotune.errors import ArtifactError
from sotune.freshness import clear_marks, is_fresh, mark_stale
from sotune.monitoring import Monitor, Silent
from sotune.pipeline.gating import without_gate
from sotune.reporting.finding import Finding
from sotune.run_files import CONFIG, PAGE
from sotune.settings import RunConfig
from sotune.stopping import Stopped, stop_if_asked

Key = Mapping[str, Any]
Figures = dict[str, str]


@dataclass(frozen=True)
class Stage:
    """One step of the path from data to report.

    Attributes:
        name: Names the manifest.
        title: What the user reads.
        after: The stage whose outputs it reads.
        reads: Stages whose outputs it reads too where they are fresh.
        version: Of what the stage computes; a higher one never takes up what a lower one left.
        key: Everything that the outputs depend on, besides those of the stage before.
        survives: What is kept when it is stopped halfway, in words.
        work: Does it; resumes what an interrupted run left.
        summarize: Figures for the closing table, read from the artefacts.
        shared: The part of the work that several processes do at once; ``work`` calls them to it by the stage's name.
    """

    name: str
    title: str
    after: str | None
    key: Callable[[RunConfig], Key]
    work: Callable[[RunConfig, RunFolder, Monitor], Sequence[str]]
    summarize: Callable[[RunFolder], Figures]
    reads: tuple[str, ...] = ()
    version: int = 1
    shared: Callable[[RunConfig, RunFolder, Monitor], object] | None = None
    survives: str = "nothing of it; it starts over"

    def full_key(self, config: RunConfig, run: RunFolder) -> dict[str, Any]:
        """Returns the stage's key with the digests of what it reads."""
        upstream = dict(run.digests(self.after)) if self.after else {}
        for name in self.reads:
            if is_fresh(run, name, files=False):
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
    """What a command did.

    Attributes:
        folder: The run.
        stages: What became of each stage.
        files: The files that it wrote.
        findings: What the run found, the worst first.
        stale: What the run holds that belongs to an earlier state of it, each with the command that mends it.
        changed: Counts of rows whose fate another selection changed, by what happened to them.
    """

    folder: str
    stages: tuple[StageOutcome, ...]
    files: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    stale: tuple[str, ...] = ()
    changed: Mapping[str, int] = field(default_factory=dict)


def run_stages(stages: Sequence[Stage], config: RunConfig, monitor: Monitor) -> RunSummary:
    """Brings stages up to date in main, which the other processes help with what they share; see `bring_up_to_date`."""
    helps = {stage.name: _helping(stage.shared, config) for stage in stages if stage.shared}
    return processes.lead(lambda: bring_up_to_date(stages, config, monitor), helps)


def _helping(shared: Callable[[RunConfig, RunFolder, Monitor], object], config: RunConfig) -> processes.Help:
    return lambda _: shared(config, RunFolder.open(Path(config.out)), Silent())


def bring_up_to_date(stages: Sequence[Stage], config: RunConfig, monitor: Monitor) -> RunSummary:
    """Brings stages up to date, in order: skips what is current, resumes or runs the rest.

    What other stages made from what is no more stays, and is stale; see `sotune.freshness`.

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
            with _stops_told(stage):
                monitor.stage(stage.title, "skipped" if current else "running")
                if not current:
                    if damaged := [name for name in run.damaged(stage.name) if name != PAGE or run.file(name).exists()]:
                        monitor.warn(
                            f"{', '.join(damaged)} in {run.path} changed since it was written; it is made anew"
                        )
                    clear_marks(run)
                    with forwarded_warnings(monitor), disk_faults_told(run.path):
                        outputs = stage.work(config, run, monitor)
            if not current:
                if stage.full_key(config, run) != key:
                    raise ArtifactError(
                        f"the data or the model changed while they were read ({stage.title}); run again when nothing "
                        f"else writes to them"
                    )
                with disk_faults_told(run.path):
                    run.commit(stage.name, key, outputs)
                    run.commit_config(CONFIG, without_gate(config))
                mark_stale(run)
            seconds = time.monotonic() - started
            status: Literal["skipped", "done"] = "skipped" if current else "done"
            with contents_told(run.path):
                outcomes.append(StageOutcome(stage.name, stage.title, status, seconds, stage.summarize(run)))
            if not current:
                files += [str(run.file(name)) for name in run.digests(stage.name) if "/" not in name]
            stop_if_asked()
        stale = tuple(mark_stale(run).values())
    for message in stale:
        monitor.warn(message)
    return RunSummary(folder=str(run.path), stages=tuple(outcomes), files=tuple(files), stale=stale)


@contextlib.contextmanager
def _stops_told(stage: Stage) -> Iterator[None]:
    """Has a stop of the work say what of it is kept."""
    try:
        yield
    except Stopped as stopped:
        stopped.tell(stage.title, stage.survives)
        raise


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
