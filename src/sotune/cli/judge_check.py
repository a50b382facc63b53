"""The command that measures a judge against human labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sotune.cli.commands import app
from sotune.cli.console import Output, monitored, print_json, print_table, say
from sotune.cli.evaluations import JudgeDryRun, print_judging_plan, show_estimate
from sotune.cli.flags import with_settings
from sotune.settings import JudgeCheckSettings, JudgeSettings, make_settings


@app.command(name="judge-check")
@with_settings(JudgeSettings, JudgeCheckSettings, config_file=False)
def judge_check(
    given: Mapping[str, Any],
    output: Output,
    labeled: Annotated[Path, typer.Argument(help="JSONL of prompt, response, label, and perhaps category.")],
    judge_dry_run: JudgeDryRun = False,
) -> None:
    """Measure a judge against human labels, and correct rates for its known error (Rogan and Gladen)."""
    from sotune.evaluation.checking import check_judge, plan_judge_check

    settings = make_settings(JudgeCheckSettings, given)
    if output.dry_run:
        say(output, {"would_write": settings.out}, f"would judge the rows of {labeled}, into {settings.out}")
        return
    if judge_dry_run:
        print_judging_plan(output, plan_judge_check(labeled, settings))
        return
    with monitored(output) as monitor:
        result = check_judge(labeled, settings, monitor)
    if output.as_json:
        print_json({**result, "files": [settings.out]})
        return
    title = f"{result['judge']} against human labels, n = {result['n']}, {result['n_unscored']} unscored"
    print_table(output, title, _figures(result), [settings.out])


def _figures(result: Mapping[str, Any]) -> dict[str, str]:
    from sotune.evaluation.usage import summarize_usage

    figures = _of("", result["overall"])
    for name, own in result["by_category"].items():
        if own["figures"] is None:
            figures[f"{name}:"] = f"no figures: {own['n_positive']} of {own['n']} labels say yes"
        else:
            figures |= _of(f"{name}: ", own["figures"])
    for name, rates in result["corrected"].items():
        figures[f"rate of {name}, as judged"] = show_estimate(rates["seen"])
        figures[f"rate of {name}, corrected"] = show_estimate(rates["corrected"])
    return {**figures, **summarize_usage(result["usage"])}


def _of(prefix: str, figures: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        f"{prefix}{name}": show_estimate(figures[name]) for name in ("accuracy", "precision", "recall", "specificity")
    }
    agreement = figures["agreement"]
    if agreement is None:
        return {**shown, f"{prefix}kappa": "-"}
    ends = f"{agreement['kappa']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}]"
    return {**shown, f"{prefix}kappa": f"{ends} n={agreement['n']}"}
