"""What a run found, and whether it meets what was required; read from its artefacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder
from sotune.evaluation.outcome import NOT_EVALUATED, load_evaluation
from sotune.freshness import is_fresh
from sotune.reporting import Finding, failures, findings
from sotune.run_files import PROMISE
from sotune.settings import GateSettings, RunConfig


def found_in(folder: Path) -> list[Finding]:
    """Returns what a run found, the worst first; nothing before its rows are selected."""
    run = RunFolder.open(folder)
    return findings(PROMISE.read(run), evaluation_in(run)) if is_fresh(run, "selection") else []


def beside(missed: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """Returns requirements that are not met, then what they do not say of the cut already."""
    told = any(one.about == "cut" for one in missed)
    return [*missed, *(one for one in found if not (told and one.about == "cut"))]


def missed_in(folder: Path, config: RunConfig, *, evaluated: bool) -> list[Finding]:
    """Returns which requirements a run does not meet; those on behavior only where it is to have been evaluated."""
    run = RunFolder.open(folder)
    return failures(config, PROMISE.read(run), evaluation_in(run) if evaluated else None)


def without_gate(config: RunConfig) -> dict[str, Any]:
    """Returns the settings as JSON without requirements, which hold for the command that names them alone."""
    return config.model_dump(mode="json", exclude=set(GateSettings.model_fields))


def evaluation_in(run: RunFolder) -> Any:
    """Returns the figures of a run's evaluation; empty ones before it, or where it is stale."""
    return load_evaluation(run.path) if is_fresh(run, "evaluation") else NOT_EVALUATED
