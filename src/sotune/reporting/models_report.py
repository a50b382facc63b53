"""The report of models beside one another: what changed from the base model, how surely, and on which prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder
from sotune.errors import ArtifactError
from sotune.evaluation.outcome import load_evaluation
from sotune.reporting.evaluation_view import ChangeView, evaluation_view
from sotune.reporting.finding import behavior
from sotune.reporting.page import flatten, write_page
from sotune.run_files import EVALUATION
from sotune.wording import counted


def write_models_report(run: RunFolder, *, show_text: bool = False) -> Path:
    """Writes ``report.html`` of an evaluation without a run, from its files.

    Prompts are cited by id. The page runs no script and loads nothing.

    Args:
        run: The folder with ``evaluation.json``, ``prompts.jsonl`` and the answers.
        show_text: Whether to print the prompts that changed and the answers to them, which may be harmful.

    Raises:
        ArtifactError: A file is missing or unreadable.
    """
    found = load_evaluation(run.path)
    try:
        view = _view(run, found, show_text)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{run.file(EVALUATION.name)} is not what this version writes ({error}); run again"
        ) from None
    return write_page(run.file("report.html"), "models.html.j2", view)


def _view(run: RunFolder, found: Mapping[str, Any], show_text: bool) -> dict[str, Any]:
    shared = evaluation_view(run.path, found, show_text=show_text)
    assessments = shared["assessments"]
    return {
        **shared,
        "headline": _headline(assessments, shared["changes"]),
        "findings": behavior(found),
        "warnings": list(found["diagnostics"]["notes"].values()),
        "setting_values": flatten(found["settings"]),
    }


def _headline(assessments: Mapping[str, Mapping[str, str]], changes: Mapping[str, Sequence[ChangeView]]) -> str:
    words = "; ".join(f"{name} is {found['label']}" for name, found in assessments.items())
    n_clear = sum(line.clear for lines in changes.values() for line in lines)
    told = f"{words}. " if words else "Harm was not measured. "
    if not changes:
        return told.strip()
    return f"{told}{counted(n_clear, 'metric') if n_clear else 'No metric'} changed clearly from the base model."
