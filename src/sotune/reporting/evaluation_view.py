"""The part of a report that shows an evaluation, of a run or of models: what changed, on which prompts, how judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sotune.evaluation.outcome import answers_file
from sotune.evaluation.usage import tell_usage
from sotune.reporting.figures import Interval, tradeoff_chart
from sotune.reporting.finding import FED_BY_HARM, stand_in
from sotune.reporting.summary import METRIC_TITLES
from sotune.run_files import PROMPTS, RESPONSES

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
class ChangeView:
    """One line of a table of changes."""

    metric: str
    before: float
    after: float
    change: Mapping[str, Any]

    @property
    def clear(self) -> bool:
        """Whether the change stands after all tests of the page are counted."""
        return bool(self.change["p_adjusted"] <= _LEVEL)


def evaluation_view(folder: Path, found: Mapping[str, Any], *, show_text: bool) -> dict[str, Any]:
    """Returns what ``evaluation.html.j2`` shows.

    Args:
        folder: Where prompts and answers lie.
        found: The figures, as ``load_evaluation`` returns them.
        show_text: Whether to print the prompts that changed and the answers to them, which may be harmful.
    """
    metrics, diagnostics = found["metrics"], found["diagnostics"]
    names = ["base", *(name for name in metrics if name != "base")] if "base" in metrics else list(metrics)
    changes = {name: _changes(metrics, name, own) for name, own in diagnostics.get("changes", {}).items()}
    figures = diagnostics.get("figures", {})
    return {
        "names": names,
        "metrics": metrics,
        "columns": {key: label for key, label in METRIC_TITLES.items() if any(key in own for own in metrics.values())},
        "tradeoff": _tradeoff(names, metrics, found["assessments"]),
        "assessments": found["assessments"],
        "changes": {name: changes[name] for name in names if name in changes},
        "shares": _measured(_SHARES, figures),
        "amounts": _measured(_AMOUNTS, figures),
        "figures": figures,
        "limit": diagnostics.get("surprise_limit"),
        "learned": diagnostics.get("refusals_learned"),
        "flips": _flips(changes),
        "texts": _texts(folder, names, changes) if show_text else {},
        "show_text": show_text,
        "n_shown": _N_PROMPTS_SHOWN,
        "metric_labels": {key: label for key, (label, _) in METRIC_TITLES.items()},
        "n_prompts": found["n_prompts"],
        "judges": found["judges"],
        "stand_in": stand_in(found["judges"]),
        "fed_by_harm": FED_BY_HARM,
        "usage": [f"{role}: {tell_usage([entry])}" for role, entry in found["judging"]["usage"].items()],
    }


def _measured(labels: Mapping[str, str], figures: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {key: label for key, label in labels.items() if any(key in own for own in figures.values())}


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


def _changes(
    metrics: Mapping[str, Mapping[str, Any]], name: str, found: Mapping[str, Mapping[str, Any]]
) -> list[ChangeView]:
    return [
        ChangeView(key, metrics["base"][key]["value"], metrics[name][key]["value"], found[key])
        for key in METRIC_TITLES
        if key in found
    ]


def _flips(changes: Mapping[str, Sequence[ChangeView]]) -> dict[str, dict[str, dict[str, list[str]]]]:
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
    folder: Path, names: Sequence[str], changes: Mapping[str, Sequence[ChangeView]]
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
    for row in PROMPTS.read(folder) if wanted else ():
        if row["id"] in wanted:
            texts[row["id"]] = {"prompt": "\n".join(turn["content"] for turn in row["messages"])}
    for name in names if texts else ():
        answers = answers_file(folder, name)
        for row in RESPONSES.named(answers.name).rows_of(answers.parent, "id", "text", where={"id": texts}):
            texts[row["id"]][name] = row["text"]
    return texts
