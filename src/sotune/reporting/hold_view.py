"""Safety while training: how far the model drifted from the aligned one, as the report tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sotune.reporting.figures import Mark, Series, line_chart
from sotune.reporting.formatting import number, percent

_SETS = {
    "risky": "risky prompts that were held",
    "unseen": "risky prompts that no step looked at",
    "harmless": "prompts that are to be answered",
}
_ASKED = {"risky": "risky prompts", "harmless": "prompts of the safe reference"}


def hold_view(training: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the section on what held the model, or nothing for plain fine-tuning that was not watched.

    ``lead`` says what was kept, ``chart`` shows the drift of each step, ``counted`` which tokens count more in it, and
    ``rows`` name the figures at the end.

    Args:
        training: ``training.json``.
        steps: The training log.
    """
    figures = training.get("figures") or {}
    drifts = {name: figures[f"{name}_drift"] for name in _SETS if f"{name}_drift" in figures}
    watched = _watched(figures, steps)
    if not drifts:
        return _without_drift(training, watched)
    rows = [(f"drift on {_SETS[name]}, nats a token", number(drift)) for name, drift in drifts.items()]
    multipliers = {
        name: [step[f"{name}_multiplier"] for step in steps if f"{name}_multiplier" in step] for name in _SETS
    }
    rows += [(f"last multiplier, {_SETS[name]}", number(found[-1])) for name, found in multipliers.items() if found]
    rows += _refusals(figures) + _of_rows(figures)
    return {
        "lead": _lead(training.get("title") or training.get("method") or "", figures, drifts),
        "chart": _chart(steps, figures.get("limit")),
        "counted": ", early tokens counted more" if "limit" in figures else "",  # by others all count alike
        "rows": rows + watched,
    }


def _refusals(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """Returns what was refused of the prompts that no step looked at, before and now."""
    return [
        (
            f"refused of {figures[f'{kind}_asked']:.0f} {words}, before and now",
            f"{percent(figures[f'{kind}_refused_before'])}, {percent(figures[f'{kind}_refused'])}",
        )
        for kind, words in _ASKED.items()
        if f"{kind}_asked" in figures
    ]


def _of_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """Returns what the model refused of the rows' own prompts, and how many rows were left out for it."""
    if "rows_asked" not in figures:
        return []
    asked, refused, left = (f"{figures[f'rows_{part}']:,.0f}" for part in ("asked", "refused", "left_out"))
    words = "prompts of the safe anchor that the model refused before, though harmless"
    anchor = [(words, percent(figures["anchor_refused"]))] if "anchor_refused" in figures else []
    return [
        (f"prompts of the kept rows that the model refused before, of {asked} asked", refused),
        ("kept rows that answer such a prompt and were not trained on", left),
        *anchor,
    ]


def _without_drift(training: Mapping[str, Any], watched: list[tuple[str, str]]) -> dict[str, Any] | None:
    """Returns what is said of training that measures no drift; nothing of plain fine-tuning that was not watched."""
    plain = training.get("method", "sft") == "sft"
    if plain and not watched:
        return None
    how = "plain fine-tuning" if plain else training["title"]
    lead = f"The kept rows were learned with {how}, which does not measure how far the model drifted."
    return {"lead": lead, "chart": None, "rows": watched}


def _watched(figures: Mapping[str, float], steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns what was looked at while training: the loss on rows held out, and how many prompts were complied with."""
    looked = {"eval_loss": ("loss on rows held out", number), "harmful_rate": ("risky prompts not refused", percent)}
    rows = []
    for name, (words, form) in looked.items():
        found = [float(step[name]) for step in steps if name in step]
        if found:
            rows.append((f"{words}, first and last look", f"{form(found[0])}, {form(found[-1])}"))
    if "stopped_at" in figures:
        told = f"at step {figures['stopped_at']:.0f}, back to the weights of step {figures['kept_step']:.0f}"
        rows.append(("stopped, as too little was refused", told))
    return rows


def _lead(name: str, figures: Mapping[str, float], drifts: Mapping[str, float]) -> str:
    limit, scale = figures.get("limit"), figures.get("scale", 1.0)
    most = number(max(drifts.values()))
    if limit is None:
        return f"The kept rows were learned with {name}; the model drifted by up to {most} nats a token."
    kept = f"The model drifted by up to {most} nats a token from what it was, within its limit of {number(limit)}"
    if scale == 1.0:
        return f"{kept}."
    return f"{kept}; for that the adapter was scaled down to {percent(scale)} at the end, which costs some of the task."


def _chart(steps: Sequence[Mapping[str, Any]], limit: float | None) -> Any:
    curves = []
    for color, (name, words) in enumerate(_SETS.items()):
        points = [(float(step["step"]), float(step[f"{name}_drift"])) for step in steps if f"{name}_drift" in step]
        if points:
            curves.append(Series(words, np.array([x for x, _ in points]), np.array([y for _, y in points]), color))
    if not any(curve.y.any() for curve in curves):
        return None
    return line_chart(
        curves,
        title="Drift from the aligned model while training",
        x_label="step",
        y_label="nats a token (logarithmic)",
        marks=[] if limit is None else [Mark(limit, f"limit {number(limit)}")],
    )
