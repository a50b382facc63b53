"""The report of models beside one another: what changed from the base model, how surely, and on which prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sotune.artifacts import RunFolder, read_json, read_parquet
from sotune.errors import ArtifactError
from sotune.evaluation.usage import tell_usage
from sotune.reporting.figures import Interval, tradeoff_chart
from sotune.reporting.formatting import counted
from sotune.reporting.page import flatten, write_page
from sotune.reporting.summary import METRIC_TITLES

_LEVEL = 0.05
_N_PROMPTS_SHOWN = 200
_SHARES = {
    "empty": "empty answers",
    "cut_off": "cut by the token budget",
    "repetition": "repeated 4-grams",
    "distinct_2": "distinct word pairs",
    "refusal_contrast": "refusals of harmful prompts, without phrases",
    "over_refusal_contrast": "over-refusal, without phrases",
}
_AMOUNTS = {
    "surprise": "surprise of the base model",
    "drift_harmful": "drift on harmful prompts",
    "drift_lookalike": "drift on look-alikes",
    "drift_task": "drift on the task",
    "drift_skill": "drift on old skills",
}


@dataclass(frozen=True, slots=True)
class _ChangeView:
    """One line of a table of changes."""

    metric: str
    before: float
    after: float
    change: Mapping[str, Any]

    @property
    def clear(self) -> bool:
        """Whether the change stands after all tests of the page are counted."""
        return bool(self.change["p_adjusted"] <= _LEVEL)

    @property
    def flips(self) -> bool:
        """Whether any prompt rose or fell."""
        return bool(self.change["gained"] or self.change["lost"])


def write_models_report(run: RunFolder, *, show_text: bool = False) -> Path:
    """Writes ``report.html`` of an evaluation without a run, from its files.

    Prompts are cited by id. The page runs no script and loads nothing.

    Args:
        run: The folder with ``evaluation.json``, ``prompts.jsonl`` and the answers.
        show_text: Whether to print the prompts that changed and the answers to them, which may be harmful.

    Raises:
        ArtifactError: A file is missing or unreadable.
    """
    results = read_json(run.file("evaluation.json"))
    try:
        view = _view(run, results, show_text)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{run.file('evaluation.json')} is not what this version writes ({error}); run again"
        ) from None
    return write_page(run.file("report.html"), "models.html.j2", view)


def _view(run: RunFolder, results: Mapping[str, Any], show_text: bool) -> dict[str, Any]:
    names = ["base", *(name for name in results["models"] if name != "base")]
    metrics, diagnostics = results["metrics"], results["diagnostics"]
    changes = {name: _changes(metrics, name, diagnostics["changes"][name]) for name in names[1:]}
    figures = diagnostics["figures"]
    return {
        "headline": _headline(results["assessments"], changes),
        "warnings": _warnings(results["assessments"], diagnostics["notes"]),
        "names": names,
        "assessments": results["assessments"],
        "columns": {key: label for key, label in METRIC_TITLES.items() if any(key in metrics[name] for name in names)},
        "metrics": metrics,
        "tradeoff": _tradeoff(names, metrics, results["assessments"]),
        "changes": changes,
        "shares": {key: label for key, label in _SHARES.items() if any(key in figures[n] for n in names)},
        "amounts": {key: label for key, label in _AMOUNTS.items() if any(key in figures[n] for n in names)},
        "figures": figures,
        "limit": diagnostics["surprise_limit"],
        "learned": diagnostics["refusals_learned"],
        "texts": _texts(run, names, changes) if show_text else {},
        "show_text": show_text,
        "n_shown": _N_PROMPTS_SHOWN,
        "metric_labels": {key: label for key, (label, _) in METRIC_TITLES.items()},
        "n_prompts": results["n_prompts"],
        "judges": results["judges"],
        "usage": [f"{role}: {tell_usage([entry])}" for role, entry in results["judging"]["usage"].items()],
        "setting_values": flatten(results["settings"]),
        "models": results["models"],
    }


def _headline(assessments: Mapping[str, Mapping[str, str]], changes: Mapping[str, Sequence[_ChangeView]]) -> str:
    words = "; ".join(f"{name} is {found['label']}" for name, found in assessments.items())
    n_clear = sum(line.clear for lines in changes.values() for line in lines)
    told = f"{words}. " if words else "Harm was not measured. "
    if not changes:
        return told.strip()
    return f"{told}{counted(n_clear, 'metric')} changed clearly from the base model."


def _warnings(assessments: Mapping[str, Mapping[str, str]], notes: Mapping[str, str]) -> list[str]:
    broken = [
        f"{name} is broken, not safe: {found['reason']}."
        for name, found in assessments.items()
        if found["label"] == "broken"
    ]
    return [*broken, *notes.values()]


def _changes(
    metrics: Mapping[str, Mapping[str, Any]], name: str, found: Mapping[str, Mapping[str, Any]]
) -> list[_ChangeView]:
    return [
        _ChangeView(key, metrics["base"][key]["value"], metrics[name][key]["value"], found[key])
        for key in METRIC_TITLES
        if key in found
    ]


def _texts(
    run: RunFolder, names: Sequence[str], changes: Mapping[str, Sequence[_ChangeView]]
) -> dict[str, dict[str, str]]:
    """Returns the prompt and each model's answer, by prompt id, for the prompts that changed."""
    wanted = {
        id
        for lines in changes.values()
        for line in lines
        for side in ("gained", "lost")
        for id in line.change[side][:_N_PROMPTS_SHOWN]
    }
    texts: dict[str, dict[str, str]] = {}
    for line in run.file("prompts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["id"] in wanted:
            texts[row["id"]] = {"prompt": "\n".join(turn["content"] for turn in row["messages"])}
    for name in names:
        answers = read_parquet(run.file(f"{name}.responses.parquet"))
        for id, text in zip(answers["id"], answers["text"], strict=True):
            if id in texts:
                texts[id][name] = text
    return texts


def _tradeoff(
    names: Sequence[str], metrics: Mapping[str, Mapping[str, Any]], assessments: Mapping[str, Mapping[str, str]]
) -> Markup | None:
    """Returns safety against task accuracy, where both were measured for at least two models."""

    def found(name: str, metric: str) -> Interval | None:
        measured = metrics[name].get(metric)
        return None if measured is None else Interval(measured["value"], measured["low"], measured["high"])

    points = [
        (
            f"{name} (broken)" if assessments.get(name, {}).get("label") == "broken" else name,
            found(name, "utility"),
            found(name, "harmful_rate"),
            6 if name == "base" else place % 6,
        )
        for place, name in enumerate(names)
        if {"utility", "harmful_rate"} <= metrics[name].keys()
    ]
    return tradeoff_chart(points, title="Safety against task accuracy") if len(points) > 1 else None
