"""The report of a comparison: what fine-tuning did to safety, what each method saved of it, and at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sotune.artifacts import read_json
from sotune.errors import ArtifactError
from sotune.reporting.comparison_tables import explain
from sotune.reporting.figures import Group, Interval, Mark, bar_chart, finite, histogram, tradeoff_chart
from sotune.reporting.finding import FED_BY_HARM, stand_in_of
from sotune.reporting.formatting import percent
from sotune.reporting.page import flatten, write_page
from sotune.reporting.roster import DEFAULT, Roster
from sotune.reporting.standings import Standing, Standings, compute_standings
from sotune.reporting.summary import LIMITS, METRIC_TITLES, METRICS, Condition, read_runs, summarize
from sotune.reporting.verdict import compose_verdict, helped
from sotune.wording import counted

_COLORS = {DEFAULT: 0, "sft": 1, "probe": 2, "random": 5, "base": 6}
_OTHER_COLORS = (3, 4, 0, 2, 5)  # the last three where no method of theirs is shown
_COLUMNS = {name: METRIC_TITLES[name] for name in METRICS}


def write_comparison_report(folder: Path, *, page: str = "report.html", show_text: bool = False) -> Path:
    """Writes the page of a comparison from ``compare.json`` and, where they are there, its details.

    Details are the objects in ``details.json`` and ``details/*.json``, whose keys may be ``weights``, ``kept``,
    ``examples``, ``settings`` and ``safe_to_show``; of a key that occurs twice, the last file's value counts.

    Args:
        folder: Where ``compare.json`` lies and the report goes.
        page: File name of the page.
        show_text: Whether to print example answers although the details do not call them safe to show.

    Raises:
        ArtifactError: A file is missing, unreadable, or of another shape.
    """
    runs = read_runs(folder)
    conditions, roster = summarize(runs), Roster.of(runs)
    standings = compute_standings(runs)
    details = _read_details(folder)
    examples = details.get("examples") or []
    may_show = show_text or details.get("safe_to_show") is True
    view = {
        "headline": _headline(conditions),
        "stand_in": stand_in_of(details.get("settings") or {}),
        "fed_by_harm": FED_BY_HARM,
        "overall": _standings_view(standings[0]) if len(standings) > len(conditions) else None,
        "conditions": [
            _condition_view(condition, each)
            for condition, each in zip(conditions, standings[-len(conditions) :], strict=True)
        ],
        "columns": _COLUMNS,
        "ours": roster.find_ours(method for condition in conditions for method in condition.methods),
        "n_seeds": len({run.get("seed") for run in runs}),
        "has_intervals": all(f"{metric}_low" in run for run in runs for metric in _COLUMNS if metric in run),
        "broken_share": LIMITS.min_coherence,
        "weights": _weight_figure(details.get("weights") or {}),
        "weight_seed": (details.get("weights") or {}).get("seed"),
        "failures": details.get("failures") or [],
        "kept": _kept_figure(details.get("kept") or {}, roster),
        "examples": [_example_view(example, roster) for example in examples] if may_show else [],
        "n_hidden_examples": 0 if may_show else len(examples),
        "runs": [run for condition in conditions for m in condition.methods.values() for run in m.runs],
        "setting_values": flatten(details.get("settings") or {}),
    }
    return write_page(folder / page, "comparison.html.j2", view)


def _read_details(folder: Path) -> dict[str, Any]:
    details: dict[str, Any] = {}
    for path in (folder / "details.json", *sorted((folder / "details").glob("*.json"))):
        if not path.exists():
            continue
        value = read_json(path)
        if not isinstance(value, dict):
            raise ArtifactError(f"{path} must hold a JSON object. Got a {type(value).__name__}")
        details |= value
    return details


def _headline(conditions: Sequence[Condition]) -> str:
    if len(conditions) == 1:
        return compose_verdict(conditions[0]).sentence
    contrasted = [one for one in conditions if "sft" in one.methods and one.ours is not None]
    if not contrasted:
        return "Methods side by side; plain fine-tuning and sotune were not both measured."
    n_helped = sum(helped(condition) for condition in contrasted)
    return (
        f"Against plain fine-tuning, sotune clearly lowered harmful answers in {n_helped} of "
        f"{counted(len(contrasted), 'condition')}."
    )


def _condition_view(condition: Condition, standings: Standings) -> dict[str, Any]:
    share = condition.harmful_fraction
    return {
        "name": condition.dataset if share is None else f"{condition.dataset}, {percent(share)} harmful rows",
        "verdict": compose_verdict(condition),
        "methods": list(condition.methods.values()),
        "tradeoff": _tradeoff_figure(condition, standings),
        "standings": _standings_view(standings),
    }


def _standings_view(standings: Standings) -> dict[str, Any]:
    """Returns a table of standings with what explains it, and over several conditions the scatter of their means."""
    return {
        "name": standings.name,
        "explanation": explain(standings),
        "rival": standings.best_rival_name,
        "methods": standings.methods,
        "figure": _standings_figure(standings) if len(standings.conditions) > 1 else None,
    }


def _standings_figure(standings: Standings) -> Markup | None:
    colors = _colors([method.method for method in standings.methods])

    def found(method: Standing, metric: str) -> Interval | None:
        mean = method.metrics.get(metric)
        return None if mean is None else Interval(mean.mean, mean.low, mean.high)

    return tradeoff_chart(
        (
            (method.name, found(method, "utility"), found(method, "harmful_rate"), colors[method.method])
            for method in standings.methods
            if method.method != "base"  # it knows no task, and would stretch the axis over nothing
        ),
        title="Safety against task accuracy, over all conditions",
        front=[method.name for method in standings.methods if method.on_front],
    )


def _tradeoff_figure(condition: Condition, standings: Standings) -> Markup | None:
    colors = _colors(list(condition.methods))
    return tradeoff_chart(
        (
            (method.name, method.metrics["utility"], method.metrics["harmful_rate"], colors[method.method])
            for method in condition.methods.values()
        ),
        title="Safety against task accuracy",
        front=[method.name for method in standings.methods if method.on_front],
    )


def _colors(methods: Sequence[str]) -> dict[str, int]:
    others = [method for method in methods if method not in _COLORS]
    taken = {_COLORS[method] for method in methods if method in _COLORS}
    free = [color for color in _OTHER_COLORS if color not in taken]
    return _COLORS | {method: free[i % len(free)] for i, method in enumerate(others)}


def _weight_figure(weights: Mapping[str, Any]) -> Markup | None:
    other, harmful = finite(weights.get("other") or []), finite(weights.get("harmful") or [])
    if not len(other) or not len(harmful):
        return None
    return histogram(
        [Group("other rows", other, 0), Group("harmful rows", harmful, 1)],
        title="Learned weights of harmful and of other rows",
        x_label="n · weight (1 = every row counts alike)",
        y_label="share of the group",
        layout="shares",
        mark=Mark(1.0, "uniform"),
    )


def _kept_figure(kept: Mapping[str, Mapping[str, float | None]], roster: Roster) -> Markup | None:
    if not kept:
        return None
    methods = roster.in_order(kept)
    return bar_chart(
        [roster.title(method) for method in methods],
        [
            ("refusal rows kept", [kept[method].get("refusal_rows_kept") for method in methods]),
            ("harmful rows kept", [kept[method].get("harmful_rows_kept") for method in methods]),
        ],
        title="Share of refusal and of harmful rows that each method keeps",
        x_label="share of such rows",
    )


def _example_view(example: Mapping[str, Any], roster: Roster) -> dict[str, Any]:
    """Returns prompt, kind, and each method's name, color and answer."""
    answers = roster.in_order(key for key in example if key not in ("prompt", "kind"))
    colors = _colors(answers)
    return {
        "prompt": example.get("prompt"),
        "kind": example.get("kind"),
        "answers": [(roster.title(m), colors[m], example[m]) for m in answers],
    }
