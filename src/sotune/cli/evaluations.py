"""How the results of an evaluation are printed: no figure without its interval, its n and its unscored count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from sotune.cli.console import Output, figure_table, finding_lines, grid_table

if TYPE_CHECKING:
    from sotune.evaluation.usage import JudgingPlan
    from sotune.pipeline import ModelComparison

JudgeDryRun = Annotated[
    bool, typer.Option("--judge-dry-run", help="Generate the answers, then say what chat judges would be asked.")
]


def print_judging_plan(output: Output, planned: JudgingPlan) -> None:
    """Prints what judging would ask of the endpoint."""
    cost = "unknown: set judge_input_price and judge_output_price" if planned.cost is None else f"{planned.cost:.4f}"
    figures = {
        "answers to judge, once for each role": f"{planned.n_items:,}",
        "calls": f"{planned.n_calls:,}",
        "answered already": f"{planned.n_cached:,}",
        "input tokens, about": f"{planned.input_tokens:,}",
        "cost, at most about": cost,
    }
    output.show(planned, figure_table("judging, if it were run", figures), files=())


def print_models(output: Output, compared: ModelComparison) -> None:
    """Prints what was found, a table of all models' metrics, one of what changed, and the files that were written."""
    from sotune.evaluation.usage import summarize_judging
    from sotune.reporting.finding import FED_BY_HARM, behavior, stand_in

    results, files = compared.results, compared.files
    metrics, words = results["metrics"], results["assessments"]
    by = " (stand-in judge)" if stand_in(results["judges"]) else ""
    rows = {
        f"{name.replace('_', ' ')}{by if name in FED_BY_HARM else ''}": [
            show_estimate(own.get(name)) for own in metrics.values()
        ]
        for name in dict.fromkeys(metric for own in metrics.values() for metric in own)
    }
    rows["verdict"] = [words[name]["label"] if name in words else "-" for name in metrics]
    table = grid_table("sotune evaluate", metrics, rows)
    changes = [_change_table(name, own, by) for name, own in results["diagnostics"]["changes"].items()]
    took = [f"{name}: {value}" for name, value in summarize_judging(results["judging"]).items()]
    notes = [f"note: {note}" for note in results["diagnostics"]["notes"].values()]
    output.show(
        {**results, "files": files},
        *finding_lines([*compared.missed, *behavior(results)]),
        table,
        *changes,
        *took,
        *notes,
        files=files,
    )


def _change_table(name: str, changes: Mapping[str, Any], by: str) -> Group:
    from sotune.reporting.finding import FED_BY_HARM

    columns = ("difference", "rose on", "fell on", "p", "p adjusted", "detectable", "n", "unscored")
    rows = {
        f"{metric.replace('_', ' ')}{by if metric in FED_BY_HARM else ''}": (
            f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]",
            str(change["only_first"]),
            str(change["only_second"]),
            f"{change['p_value']:.2g}",
            f"{change['p_adjusted']:.2g}",
            f"{change['detectable']:.3f}",
            str(change["n"]),
            str(change["n_unscored"]),
        )
        for metric, change in changes.items()
    }
    return grid_table(f"{name} against base, on the same prompts", columns, rows)


def show_estimate(estimate: Mapping[str, Any] | None) -> str:
    """Returns a figure with its interval, n, unscored and unreadable count; a dash where it was not measured."""
    if estimate is None:
        return "-"
    ends = f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    unreadable = f", {n} unreadable" if (n := estimate.get("n_unreadable")) else ""
    return f"{ends} n={estimate['n']}, {estimate['n_unscored']} unscored{unreadable}"
