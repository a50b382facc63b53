"""The report of one run: what was read, how it was weighed, what was kept, and whether to trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from sotune.artifacts import RunFolder
from sotune.reporting.evaluation_view import evaluation_view
from sotune.reporting.figures import Group, Mark, Series, cloud_chart, finite, histogram, line_chart
from sotune.reporting.finding import findings
from sotune.reporting.formatting import duration, identifier, number, percent
from sotune.reporting.hold_view import hold_view
from sotune.reporting.page import flatten, write_page
from sotune.reporting.promise_view import promise_view
from sotune.reporting.run_artifacts import RankedRows, RunArtifacts, read_run, read_texts
from sotune.wording import counted

_N_EXTREME_ROWS = 15
_N_REASONS_SHOWN = 12
_N_POINTS = 2_000
_SAMPLE_SEED = 0
_LITTLE = 0.01  # of AUROC
_KEPT, _DROPPED = 0, 1  # colors
_RESIDUALS = {
    "stationarity": "stationarity_tolerance",
    "pull_marginal_error": "marginal_tolerance",
    "push_marginal_error": "marginal_tolerance",
}
"""What the solver drives to 0, and the name of what is small enough."""


def write_run_report(run: RunFolder, *, show_text: bool = False) -> Path:
    """Writes ``report.html`` of a run from its artefacts.

    Rows are cited by id. The page is one file without scripts, without network, and with all text escaped; the
    same artefacts give the same bytes.

    Args:
        run: A run folder with weights and selection.
        show_text: Whether to print the texts of the most pulled and most pushed rows, which may be harmful.

    Raises:
        ArtifactError: An artefact is missing or unreadable.
    """
    artifacts = read_run(run)
    rows = artifacts.rows
    top, bottom = rows.some(slice(_N_EXTREME_ROWS)), rows.some(slice(-_N_EXTREME_ROWS, None))[::-1]
    texts = read_texts(run, [row.id for row in (*top, *bottom)]) if show_text else {}
    view = {
        "findings": findings(artifacts.promise, artifacts.evaluation),
        "summary": _summary(artifacts),
        "warnings": [*_solver_warnings(artifacts.solver), *artifacts.warnings],
        "facts": _facts(artifacts),
        "sets": artifacts.sets,
        "rendering": _rendering(artifacts.rendering),
        "encoded": artifacts.representations,
        "readings": _readings(artifacts.representations),
        **evaluation_view(run.path, artifacts.evaluation, show_text=show_text),
        "reasons": _common_reasons(artifacts.quarantine_reasons),
        "n_quarantined": _n_quarantined(artifacts),
        "quarantined": artifacts.quarantined,
        "weights": _weight_figure(rows),
        "costs": _cost_figure(rows, cost=identifier(artifacts.solver.get("cost") or "ground cost", 16)),
        "has_history": bool(artifacts.solver.get("history")),
        "convergence": _convergence_figure(artifacts.solver),
        "kinds": artifacts.promise.get("kinds") or {},
        "method": artifacts.solver.get("title"),
        "citation": " ".join(filter(None, (artifacts.solver.get(name) for name in ("citation", "link")))),
        "hold": hold_view(artifacts.training, artifacts.training_steps),
        "prompts_alone": _prompts_alone(artifacts.solver.get("prompts_alone") or {}),
        "promise": promise_view(artifacts.promise, artifacts.sentinels),
        "solver": _solver_table(artifacts.solver) if _transports(artifacts.solver) else [],
        "extremes": [("The largest weights", top), ("The smallest weights", bottom)],
        "row_texts": texts,
        "config": flatten(artifacts.config),
        "versions": artifacts.versions,
    }
    return write_page(run.file("report.html"), "run.html.j2", view)


def _summary(artifacts: RunArtifacts) -> str:
    n_kept = int(artifacts.rows.kept.sum())
    outcome = _outcome(artifacts.solver)
    n_quarantined = _n_quarantined(artifacts)
    quarantined = counted(n_quarantined, "row") if n_quarantined else "no row"
    return f"Kept {n_kept:,} of {counted(len(artifacts.rows), 'row')}; {outcome}; {quarantined} quarantined."


def _outcome(solver: Mapping[str, Any]) -> str:
    converged = solver.get("converged")
    if converged is not None:
        return "the solver converged" if converged else "the solver did not converge"
    if "title" in solver:
        return f"weighed by {identifier(solver['title'])}"
    return "convergence was not recorded"


def _rendering(rendering: Mapping[str, Any]) -> list[str]:
    """Returns in words how rows became text; nothing where no model was named."""
    if not rendering:
        return []
    own = "the tokenizer's chat template" if rendering["template"] == "chat" else "the template of the paper"
    name = f" called {rendering['chat_template']}" if "chat_template" in rendering else ""
    kwargs = rendering.get("chat_template_kwargs") or {}
    given = f" with {', '.join(f'{key}={value!r}' for key, value in kwargs.items())}" if kwargs else ""
    folded = "; system turns stand in front of the next user turn" if rendering.get("fold_system") else ""
    return [f"Rows are rendered by {own}{name}{given}, at most {rendering['max_length']:,} tokens each{folded}."]


def _readings(encoded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the ways to represent rows that a choice was made among, the best first; none where there was none."""
    choice = encoded.get("choice") or {}
    readings = [
        {**one, "chosen": one["fingerprint"] == choice.get("fingerprint")} for one in choice.get("candidates") or ()
    ]
    return sorted(readings, key=lambda one: (not one["chosen"], -(one["separation"] or 0.0) - one.get("contrast", 0.0)))


def _prompts_alone(found: Mapping[str, Any]) -> str:
    """Returns in words how much of the ranking follows from the prompts; nothing where that was not measured."""
    if not found:
        return ""
    told = f"Without their answers {counted(found['n'], 'sampled row')} are ranked"
    rank = "alike" if found["spearman"] is None else f"as here with a correlation of {found['spearman']:.2f} (Spearman)"
    alone, whole = found["auroc"], found["auroc_with_answers"]
    if alone is None or whole is None:
        return f"{told} {rank}."
    gain = "so the answers add little" if whole - alone < _LITTLE else "so the answers count"
    return (
        f"{told} {rank}. Harm that is held out is told from the rows with an AUROC of {alone:.3f} by prompts alone and "
        f"{whole:.3f} with the answers, {gain}."
    )


def _n_quarantined(artifacts: RunArtifacts) -> int:
    return sum(counts.get("n_quarantined") or 0 for counts in artifacts.sets.values())


def _solver_warnings(solver: Mapping[str, Any]) -> list[str]:
    """Returns warnings that follow from the solver's own numbers."""
    if solver.get("converged") is not False:
        return []
    measured = [
        f"{_words(name)} {number(solver[name])} against a tolerance of {number(solver[tolerance])}"
        for name, tolerance in _RESIDUALS.items()
        if (solver.get(name) or 0) > (solver.get(tolerance) or np.inf)
    ]
    numbers = f" ({'; '.join(measured)})" if measured else ""
    return [
        f"The solver stopped before it converged{numbers}: weights may still change. Allow it more steps, "
        f"or raise tau or epsilon."
    ]


def _facts(artifacts: RunArtifacts) -> list[tuple[str, str, str]]:
    """Returns name, value and remark of the figures that stand under the headline."""
    rows, solver = artifacts.rows, artifacts.solver
    n_kept = int(rows.kept.sum())
    cut = _cut(rows)
    dropped = math.fsum(rows.relative_weight[~rows.kept]) / len(rows)
    facts = [
        ("kept", percent(n_kept / len(rows)), f"{n_kept:,} of {counted(len(rows), 'row')}"),
        ("cut at", "—" if cut is None else f"{number(cut)} ×", "the mean weight; smallest kept"),
        ("weight dropped", percent(dropped), "of the total before the cut"),
        ("effective sample size", _sample_size(solver.get("effective_sample_size")), "of all rows, by weight"),
    ]
    if n_unknown := artifacts.promise.get("n_unknown"):
        facts.append(("unknown", f"{n_unknown:,}", f"{counted(n_unknown, 'row')} far from all references"))
    if _transports(solver):
        iterations = f"{number(solver.get('n_sinkhorn_iters'))} Sinkhorn iterations"
        facts.append(("solver steps", number(solver.get("n_steps")), iterations))
    return facts


def _transports(solver: Mapping[str, Any]) -> bool:
    """Tells whether the method of the run solves a transport problem."""
    return "title" not in solver or "solver" in solver


def _sample_size(value: float | None) -> str:
    return percent(value) if value is None or value <= 1 else number(round(value))


def _cut(rows: RankedRows) -> float | None:
    """Returns the smallest kept relative weight; nothing when all rows are kept."""
    if rows.kept.all() or not rows.kept.any():
        return None
    return float(rows.relative_weight[rows.kept].min())


def _common_reasons(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns the commonest quarantine reasons, the rest summed in a last line."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ordered[:_N_REASONS_SHOWN], ordered[_N_REASONS_SHOWN:]
    if rest:
        shown.append((counted(len(rest), "other reason"), sum(n for _, n in rest)))
    return shown


def _weight_figure(rows: RankedRows) -> Markup:
    cut = _cut(rows)
    groups = [
        Group("dropped", finite(rows.relative_weight[~rows.kept]), _DROPPED),
        Group("kept", finite(rows.relative_weight[rows.kept]), _KEPT),
    ]
    return histogram(
        [group for group in groups if len(group.values)],
        title="Distribution of the learned weights",
        x_label="n · weight (1 = every row counts alike)",
        y_label="rows",
        layout="stacked",
        mark=None if cut is None else Mark(cut, f"cut {number(cut)}"),
    )


def _cost_figure(rows: RankedRows, *, cost: str) -> tuple[Markup, str] | None:
    """Returns the figure and what its caption says of sampling; nothing when no row has costs."""
    located = np.flatnonzero(np.isfinite(rows.pull_cost) & np.isfinite(rows.push_cost))
    if not len(located):
        return None
    note = f"All {counted(len(located), 'row')}."
    if len(located) > _N_POINTS:
        generator = np.random.default_rng(_SAMPLE_SEED)
        chosen = np.sort(generator.choice(len(located), _N_POINTS, replace=False))
        note = f"{_N_POINTS:,} of {len(located):,} rows, drawn at random (seed {_SAMPLE_SEED})."
        located = located[chosen]
    sides = (("kept", located[rows.kept[located]], _KEPT), ("dropped", located[~rows.kept[located]], _DROPPED))
    clouds = [Series(label, rows.pull_cost[of], rows.push_cost[of], color) for label, of, color in sides]
    figure = cloud_chart(
        [cloud for cloud in clouds if len(cloud.x)],
        title="Pull cost against push cost",
        x_label=f"pull cost: to the safe anchor ({cost})",
        y_label=f"push cost: to the harmful reference ({cost})",
    )
    return figure, note


def _convergence_figure(solver: Mapping[str, Any]) -> Markup | None:
    history = solver.get("history") or []
    curves = []
    for color, name in enumerate(_RESIDUALS):
        points = [(index, entry) for index, entry in enumerate(history) if entry.get(name) is not None]
        steps = [float(entry.get("step", index)) for index, entry in points]
        curves.append(Series(_words(name), np.array(steps), np.array([entry[name] for _, entry in points]), color))
    if not any(curve.y.any() for curve in curves):  # no history, or exact from the first step on
        return None
    return line_chart(
        curves,
        title="Convergence of the solver",
        x_label="step",
        y_label="residual (logarithmic)",
        marks=_tolerance_marks(solver),
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _tolerance_marks(solver: Mapping[str, Any]) -> list[Mark]:
    marginal, stationarity = solver.get("marginal_tolerance") or 0.0, solver.get("stationarity_tolerance") or 0.0
    if marginal == stationarity:
        named = {"tolerance": marginal}
    else:
        named = {"stationarity tolerance": stationarity, "marginal tolerance": marginal}
    return [Mark(value, f"{name} {number(value)}") for name, value in named.items() if value > 0]


def _solver_table(solver: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("solver", identifier(solver.get("solver") or solver.get("method"))),
        ("ground cost", identifier(solver.get("cost"))),
        ("converged", number(solver.get("converged"))),
        ("steps", number(solver.get("n_steps"))),
        ("Sinkhorn iterations", number(solver.get("n_sinkhorn_iters"))),
        *(
            (_words(name), f"{number(solver.get(name))} (tolerance {number(solver.get(tolerance))})")
            for name, tolerance in _RESIDUALS.items()
        ),
        ("objective", number(solver.get("objective"), 5)),
        ("effective sample size", _sample_size(solver.get("effective_sample_size"))),
        ("epsilon", number(solver.get("epsilon"))),
        ("push strength λ", number(solver.get("push_strength"))),
        ("tau", number(solver.get("tau"))),
        *([("time", duration(solver["seconds"]))] if solver.get("seconds") is not None else []),
    ]
