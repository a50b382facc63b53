"""The report of models beside one another: what changed from the base model, how surely, and on which prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sotune.artifacts import RunFolder
from sotune.errors import ArtifactError
from sotune.reporting.figures import Estimate, Interval, estimate_chart
from sotune.reporting.formatting import counted
from sotune.reporting.page import flatten, write_page
from sotune.run_files import EVALUATION, PROMPTS, RESPONSES

_LEVEL = 0.05
_N_PROMPTS_SHOWN = 200
_METRICS = {
    "harmful_rate": ("harmful answers", "↓"),
    "refusal_rate": ("refusals of harmful prompts", "↑"),
    "over_refusal": ("over-refusal", "↓"),
    "utility": ("task accuracy", "↑"),
    "skill": ("old skills", "↑"),
    "coherence": ("coherent answers", "↑"),
    "avg": ("Avg", "↑"),
}
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


def write_models_report(run: RunFolder, *, show_text: bool = False) -> Path:
    """Writes ``report.html`` of an evaluation without a run, from its files.

    Prompts are cited by id. The page runs no script and loads nothing.

    Args:
        run: The folder with ``evaluation.json``, ``prompts.jsonl`` and the answers.
        show_text: Whether to print the prompts that changed and the answers to them, which may be harmful.

    Raises:
        ArtifactError: A file is missing or unreadable.
    """
    results = EVALUATION.read(run)
    try:
        view = _view(run, results, show_text)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{run.file(EVALUATION.name)} is not what this version writes ({error}); run again"
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
        "columns": {key: label for key, label in _METRICS.items() if any(key in metrics[name] for name in names)},
        "metrics": metrics,
        "tradeoff": _tradeoff(names, metrics, results["assessments"]),
        "changes": changes,
        "shares": {key: label for key, label in _SHARES.items() if any(key in figures[n] for n in names)},
        "amounts": {key: label for key, label in _AMOUNTS.items() if any(key in figures[n] for n in names)},
        "figures": figures,
        "limit": diagnostics["surprise_limit"],
        "learned": diagnostics["refusals_learned"],
        "flips": _flips(changes),
        "texts": _texts(run, names, changes) if show_text else {},
        "show_text": show_text,
        "n_shown": _N_PROMPTS_SHOWN,
        "metric_labels": {key: label for key, (label, _) in _METRICS.items()},
        "n_prompts": results["n_prompts"],
        "judges": results["judges"],
        "usage": [_usage(role, entry) for role, entry in results["judging"]["usage"].items()],
        "setting_values": flatten(results["settings"]),
        "models": results["models"],
    }


def _usage(role: str, entry: Mapping[str, Any]) -> str:
    """Says what a chat judge took."""
    tokens = f"{entry['input_tokens']:,} tokens in, {entry['output_tokens']:,} out"
    cost = "" if entry["cost"] is None else f", at a cost of {entry['cost']:.4f}"
    return f"{role}: {counted(entry['n_answered'], 'answer')}, {tokens}{cost}"


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
        for key in _METRICS
        if key in found
    ]


def _flips(changes: Mapping[str, Sequence[_ChangeView]]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Returns, by model and metric, the ids of the prompts that changed."""
    return {
        name: {
            line.metric: {"gained": line.change["gained"], "lost": line.change["lost"]}
            for line in lines
            if line.change["gained"] or line.change["lost"]
        }
        for name, lines in changes.items()
    }


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
    for row in PROMPTS.read(run):
        if row["id"] in wanted:
            texts[row["id"]] = {"prompt": "\n".join(turn["content"] for turn in row["messages"])}
    for name in names:
        answers = RESPONSES.named(f"{name}.{RESPONSES.name}")
        for row in answers.rows_of(run, "id", "text", where={"id": texts}):
            texts[row["id"]][name] = row["text"]
    return texts


def _tradeoff(
    names: Sequence[str], metrics: Mapping[str, Mapping[str, Any]], assessments: Mapping[str, Mapping[str, str]]
) -> Markup | None:
    """Returns safety against task accuracy, where both were measured for at least two models."""
    estimates = [
        Estimate(
            f"{name} (broken)" if assessments.get(name, {}).get("label") == "broken" else name,
            Interval(own["utility"]["value"], own["utility"]["low"], own["utility"]["high"]),
            Interval(1 - own["harmful_rate"]["value"], 1 - own["harmful_rate"]["high"], 1 - own["harmful_rate"]["low"]),
            6 if name == "base" else place % 6,
        )
        for place, name in enumerate(names)
        if "utility" in (own := metrics[name]) and "harmful_rate" in own
    ]
    if len(estimates) < 2:
        return None
    return estimate_chart(
        estimates,
        title="Safety against task accuracy",
        x_label="task accuracy",
        y_label="safety (1 − harmful rate)",
    )
