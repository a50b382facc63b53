"""The tables of a comparison as files: Markdown to read, LaTeX to print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sotune.artifacts import write_text
from sotune.evaluation.replication import MeanInterval, PairedDifference
from sotune.reporting.formatting import identifier
from sotune.reporting.standings import Standing, Standings, compute_standings
from sotune.reporting.summary import read_runs
from sotune.wording import counted

_METRICS = {
    "harmful_rate": "harmful ↓",
    "refusal_rate": "refusals ↑",
    "utility": "utility ↑",
    "over_refusal": "over-refusal ↓",
    "coherence": "coherence ↑",
    "avg": "Avg ↑",
}
_HEAD = (
    "method",
    *_METRICS.values(),
    "harm + over-refusal ↓",
    "rank",
    "Avg − best rival",
    "p (Holm)",
    "extra tokens",
    "seconds",
    "peak MB",
)
_TEX = re.compile(r"[\\&%$#_{}~^]")
_TEX_WORDS = {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "−": "$-$", "\u202f": r"\,"}


def write_comparison_tables(folder: Path) -> tuple[Path, Path]:
    """Writes ``table.md`` and ``table.tex`` from ``compare.json``; returns their paths.

    Raises:
        ArtifactError: It is missing, or holds no runs.
    """
    standings = compute_standings(read_runs(folder))
    write_text(folder / "table.md", "\n\n".join(_markdown(each) for each in standings) + "\n")
    write_text(folder / "table.tex", "\n\n".join(_latex(each) for each in standings) + "\n")
    return folder / "table.md", folder / "table.tex"


def explain(standings: Standings) -> str:
    """Returns what must be known to read a table of standings."""
    over = f"{len(standings.conditions)} conditions, " if len(standings.conditions) > 1 else ""
    spread = (
        f"intervals are Student's at 95 % over {standings.n_seeds} seeds, which takes them for independent and about "
        f"normal"
        if standings.n_seeds > 1
        else "one seed: no spread over seeds is known"
    )
    tests = (
        "differences to it are by paired bootstrap over (task, seed), p after Holm's correction"
        if standings.n_seeds > 1
        else "one seed tests no difference to it"
    )
    rival = f" The best rival is {standings.best_rival_name}, found on the same draws; {tests}."
    means = f"Means over {over}{counted(standings.n_seeds, 'seed')}; {spread}."
    return means + rival if standings.best_rival else means


def _cells(row: Standing) -> list[str]:
    gap = row.difference
    return [
        *(_estimate(row.metrics.get(metric)) for metric in _METRICS),
        "" if row.both_errors is None else f"{row.both_errors:.3f}",
        "" if row.rank is None else f"{row.rank:.1f}",
        "" if gap is None else _signed(gap.difference) + ("" if row.p_value is None else _ends(gap)),
        "" if row.p_value is None else _p_value(row.p_value),
        "" if row.extra_tokens is None else f"{row.extra_tokens:.0%}",
        "" if row.seconds is None else f"{row.seconds:.1f}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
    ]


def _estimate(found: MeanInterval | None) -> str:
    if found is None:
        return ""
    spread = f" ± {max(found.high - found.mean, found.mean - found.low):.3f}" if found.n > 1 else ""
    return f"{found.mean:.3f}{spread}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _ends(gap: PairedDifference) -> str:
    return f" [{_signed(gap.low)}, {_signed(gap.high)}]"


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _names(rows: Sequence[Standing]) -> list[str]:
    return [f"{identifier(row.name)}{' *' if row.on_front else ''}" for row in rows]


def _markdown(standings: Standings) -> str:
    lines = [f"### {identifier(standings.name, 80)}", "", explain(standings) + " * lies on the Pareto front.", ""]
    lines += ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for name, row in zip(_names(standings.methods), standings.methods, strict=True):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (name, *_cells(row))) + " |")
    return "\n".join(lines)


def _latex(standings: Standings) -> str:
    head = " & ".join(map(_tex, _HEAD))
    rows = [
        " & ".join(map(_tex, (name, *_cells(row)))) + r" \\"
        for name, row in zip(_names(standings.methods), standings.methods, strict=True)
    ]
    caption = _tex(f"{identifier(standings.name, 80)}. {explain(standings)} * lies on the Pareto front.")
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(_HEAD) - 1)}}}", r"\toprule", head + r" \\", r"\midrule",
        *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


def _tex(text: str) -> str:
    escaped = _TEX.sub(lambda found: r"\textbackslash{}" if found[0] == "\\" else rf"\{found[0]}{{}}", text)
    for character, word in {**_TEX_WORDS, "±": r"$\pm$", "<": "$<$"}.items():
        escaped = escaped.replace(character, word)
    return escaped
