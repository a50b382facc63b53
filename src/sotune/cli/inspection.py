"""How an inspection of rows is printed: what was detected, totals, and texts in which the learned part stands out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.text import Text

from sotune.cli.console import figure_table, grid_table
from sotune.reporting.formatting import shorten, visible
from sotune.wording import counted

if TYPE_CHECKING:
    from sotune.pipeline import Inspection
    from sotune.pipeline.inspecting import InspectedRow

_LEARNED, _QUIET = "bold green", "dim"
_OPEN, _CLOSE = "⟦", "⟧"
_HEAD, _TAIL = 800, 400
"""How many characters of a long part are shown, unless its row was asked for."""


def inspection_parts(found: Inspection, *, whole: bool) -> Iterator[RenderableType]:
    """Yields what is printed of an inspection, one part after the other.

    Args:
        found: The inspection.
        whole: Whether texts are shown however long they are.
    """
    yield figure_table(f"sotune inspect {shorten(found.source, 200)}", _figures(found))
    if found.quarantine:
        reasons = {one.kind: [f"{one.n_rows:,}", visible("\n".join(one.first))] for one in found.quarantine}
        yield grid_table("would be quarantined", ("rows", "first of them"), reasons)
    yield from (f"warning: {message}" for message in found.warnings)
    colored = _is_colored()
    if found.rows:
        yield Text.assemble("learned text is ", ("green", _LEARNED) if colored else f"{_OPEN}in brackets{_CLOSE}")
    for row in found.rows:
        yield Text(_heading(row), style="bold")
        yield _marked(row, colored=colored, whole=whole)


def _figures(found: Inspection) -> dict[str, str]:
    columns = ", ".join(f"{column} ({role})" if column != role else role for role, column in found.columns.items())
    figures = {"format": found.format, "columns read": visible(columns)}
    if found.unused:
        figures["text columns not used"] = visible(", ".join(found.unused))
    figures |= {
        "template": _template(found),
        "rows": f"{found.n_read:,} read, {found.n_valid:,} valid, {found.n_quarantined:,} would be quarantined",
        "duplicates": counted(found.n_duplicates, "row"),
    }
    if found.n_filtered_out:
        figures["left out by filters"] = counted(found.n_filtered_out, "row")
    figures |= {f"rows with {name}": f"{n_rows:,}" for name, n_rows in found.holds.items()}
    lengths = found.lengths
    if lengths is None:
        return {**figures, "tokens": "not counted; name a model with --model"}
    return {
        **figures,
        "tokens": f"{lengths.total:,}, of which {lengths.learned:,} are learned",
        "tokens a row": f"median {lengths.median:,}, 95 % up to {lengths.p95:,}, longest {lengths.longest:,} "
        f"({shorten(lengths.longest_id, 60)})",
        f"cut to {lengths.max_length:,} tokens": counted(lengths.n_truncated, "row"),
        "template drops a part": f"of what is learned in {counted(found.n_lossy, 'row')}, of the context in "
        f"{counted(found.n_omitting, 'row')}",
        "special tokens as text": counted(found.n_special, "row"),
    }


def _template(found: Inspection) -> str:
    named = {name: value for name, value in found.template.items() if name != "template"}
    options = ", ".join(f"{name} {value}" for name, value in named.items())
    whose = "no model is named, so no tokens are counted" if found.model is None else f"of {found.model}"
    return visible(f"{found.template['template']} ({whose}; {options})")


def _heading(row: InspectedRow) -> str:
    parts = [f"row {shorten(row.id or '(no id)', 200)} at {shorten(row.place, 300)}"]
    if row.n_tokens is not None:
        parts.append(f"{counted(row.n_tokens, 'token')}, {row.n_learned:,} learned")
    parts += [f"{row.n_lost:,} cut off"] if row.n_lost else []
    parts += ["the template drops a part of the completion"] if row.lossy else []
    parts += ["the template drops what another turn says, or the tools"] if row.omits else []
    parts += [f"{counted(row.n_special, 'special token')} in its text, read as text"] if row.n_special else []
    return "\n" + "; ".join(parts)


def _marked(row: InspectedRow, *, colored: bool, whole: bool) -> Text:
    """Returns the text of a row with its learned parts marked, by color or by brackets; nothing in it is markup."""
    if row.quarantined:
        return Text(f"would be quarantined: {visible(row.quarantined)}", style="yellow")
    text = Text()
    for piece in row.pieces:
        shown = visible(piece.text if whole else _shortened(piece.text))
        if piece.learned:
            text.append(shown if colored else f"{_OPEN}{shown}{_CLOSE}", style=_LEARNED)
        else:
            text.append(shown, style=_QUIET)
    return text


def _shortened(text: str) -> str:
    n_hidden = len(text) - _HEAD - _TAIL
    return text if n_hidden <= 0 else f"{text[:_HEAD]} [… {n_hidden:,} characters …] {text[-_TAIL:]}"


def _is_colored() -> bool:
    console = Console()
    return console.color_system is not None and not console.no_color
