"""What the card of an adapter says of its safety: findings, and figures with their intervals, as the run has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sotune.artifacts import RunFolder, write_text
from sotune.evaluation.outcome import TUNED
from sotune.freshness import is_fresh
from sotune.reporting.finding import FED_BY_HARM, Finding, stand_in
from sotune.reporting.summary import METRIC_TITLES
from sotune.run_files import ADAPTER, CARD, CARD_FIGURES


def update_card(
    run: RunFolder, found: Sequence[Finding], evaluation: Mapping[str, Any], *, how: Mapping[str, str]
) -> list[str]:
    """Writes what was measured into the card of a run's adapter; returns the name of the file, if there is one.

    Args:
        run: The run.
        found: What it found.
        evaluation: As ``load_evaluation`` returns it.
        how: What was done, by name in words: the method, the rows.
    """
    path, (begin, end) = run.file(f"{ADAPTER}/{CARD}"), CARD_FIGURES
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not (is_fresh(run, "training") and begin in text and end in text):
        return []
    before, after = text.partition(begin)[0], text.partition(end)[2]
    write_text(path, f"{before}{begin}{_figures(found, evaluation, how)}{end}{after}")
    return [f"{ADAPTER}/{CARD}"]


def _figures(found: Sequence[Finding], evaluation: Mapping[str, Any], how: Mapping[str, str]) -> str:
    lines = ["## Safety", "", *(f"- {one.sentence}" for one in found)]
    lines += [f"- {name}: {value}." for name, value in how.items()]
    metrics = evaluation["metrics"]
    if TUNED not in metrics:
        return "\n".join([*lines, "- The adapter was not evaluated.", ""])
    by = " (stand-in judge)" if stand_in(evaluation["judges"]) else ""
    lines += ["", "| figure, with its 95 % interval | base model | with this adapter |", "|---|---|---|"]
    for name, (title, better) in METRIC_TITLES.items():
        if name in metrics[TUNED]:
            told = (_rate(metrics.get(model, {}).get(name)) for model in ("base", TUNED))
            lines.append(f"| {title} {better}{by if name in FED_BY_HARM else ''} | {' | '.join(told)} |")
    judges = ", ".join(f"{role} by {judge}" for role, judge in evaluation["judges"].items())
    return "\n".join([*lines, "", f"Judged: {judges}.", ""])


def _rate(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "—"
    unscored = f", {figure['n_unscored']} unscored" if figure["n_unscored"] else ""
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}], n = {figure['n']}{unscored}"
