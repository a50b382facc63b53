"""How a file of rows would be read and rendered: shown before anything is weighed or trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sotune.errors import ConfigError, DataError
from sotune.models import ModelSpec
from sotune.monitoring import Monitor
from sotune.pipeline.record_sets import downstream_options
from sotune.records import Record
from sotune.rendering import Piece, Renderer, Trial, load_renderer, text_pieces, token_pieces
from sotune.settings import Format, InspectionSettings
from sotune.sources import Layout, LoadedSet, QuarantinedRow, load_set
from sotune.wording import counted

_FIRST_PLACES = 3
_OPTIONAL = ("input", "system", "history", "tools")


@dataclass(frozen=True)
class Lengths:
    """Tokens of the valid rows, before any is cut to ``max_length``.

    Attributes:
        median: Half of the rows are no longer.
        p95: 95 % of the rows are no longer.
        longest: The longest row's.
        longest_id: Its id.
        total: Of all rows.
        learned: How many are trained on, after rows were cut.
        max_length: The limit of a row.
        n_truncated: Rows that are longer, and are cut.
    """

    median: int
    p95: int
    longest: int
    longest_id: str
    total: int
    learned: int
    max_length: int
    n_truncated: int


@dataclass(frozen=True)
class QuarantineReason:
    """Why rows would be quarantined.

    Attributes:
        kind: The reason, without its detail.
        n_rows: How many rows.
        first: The first of them, each ``file:line`` with the detail, if there is one.
    """

    kind: str
    n_rows: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class InspectedRow:
    """One row as a model would read it.

    Attributes:
        id: Its id; empty where a row that is quarantined has none.
        place: Where it stands, as ``file:line``.
        pieces: Its rendered text, cut where learning begins and ends: read back from the tokens where there is a
            tokenizer. Empty for a row that is quarantined.
        quarantined: Why it would be quarantined; empty: it would not.
        n_tokens: Tokens, before it is cut; ``None`` without a tokenizer, like those that follow.
        n_learned: Tokens that are trained on.
        n_lost: Tokens that are cut off.
        n_special: Special tokens that the row itself writes; they are read as text.
        lossy: Whether the template drops a part of what is to be learned.
        omits: Whether it drops what another turn says, or the tools.
    """

    id: str
    place: str
    pieces: tuple[Piece, ...] = ()
    quarantined: str = ""
    n_tokens: int | None = None
    n_learned: int | None = None
    n_lost: int | None = None
    n_special: int | None = None
    lossy: bool = False
    omits: bool = False


@dataclass(frozen=True)
class Inspection:
    """What was found in a file of rows.

    Attributes:
        source: What was read.
        format: The schema named or detected.
        columns: What each column that is read is used for, by its role.
        unused: Columns that hold text which is not used.
        template: How rows become text: the template, its name, its options, and the limit of a row.
        model: Whose tokenizer it is; ``None``: none, and nothing is known of tokens.
        n_read: Rows read.
        n_filtered_out: Rows that the filters left out.
        n_valid: Rows that would be used.
        n_quarantined: Rows that would be quarantined.
        n_duplicates: Valid rows whose conversation an earlier one has.
        holds: How many valid rows hold what goes beyond a question and its answer.
        lengths: Of the valid rows; ``None`` without a tokenizer.
        n_lossy: Valid rows of which the template drops a part that is to be learned.
        n_omitting: Valid rows of which it drops what another turn says, or the tools.
        n_special: Valid rows that write special tokens in their own text.
        quarantine: Why rows would be quarantined, the commonest reason first.
        warnings: What else the user should know.
        rows: The rows that were asked for.
    """

    source: str
    format: Format
    columns: dict[str, str]
    unused: tuple[str, ...]
    template: dict[str, Any]
    model: str | None
    n_read: int
    n_filtered_out: int
    n_valid: int
    n_quarantined: int
    n_duplicates: int
    holds: dict[str, int]
    lengths: Lengths | None
    n_lossy: int
    n_omitting: int
    n_special: int
    quarantine: tuple[QuarantineReason, ...]
    warnings: tuple[str, ...]
    rows: tuple[InspectedRow, ...]


def inspect_data(settings: InspectionSettings, monitor: Monitor) -> Inspection:
    """Reads a file of rows as a run would, and renders and measures each.

    Raises:
        DataError: The source cannot be read, none of its rows can be used, or there is no such row as is asked for.
        ConfigError: The model's tokenizer cannot be loaded, or lacks the template.
    """
    renderer = _renderer(settings)
    measured = _Measured(renderer)
    loaded = load_set(
        settings.data,
        set_name="downstream",
        options=downstream_options(settings),
        max_quarantine_fraction=1.0,
        progress=lambda done: monitor.progress("reading and rendering", done, None),
        check=measured if settings.model else None,
    )
    return Inspection(
        source=settings.data,
        format=loaded.format,
        columns=_columns(loaded.layout),
        unused=loaded.unused,
        template=dict(renderer.description),
        model=settings.model,
        n_read=loaded.n_read,
        n_filtered_out=loaded.n_filtered_out,
        n_valid=len(loaded.records),
        n_quarantined=len(loaded.quarantined),
        n_duplicates=loaded.n_duplicates,
        holds=_contents(loaded.records),
        lengths=measured.lengths(loaded.records, renderer.max_length),
        n_lossy=measured.trial.counts["n_lossy"],
        n_omitting=measured.trial.counts["n_omitting"],
        n_special=measured.trial.counts["n_special"],
        quarantine=tuple(_reasons(loaded.quarantined)),
        warnings=(*loaded.warnings, *measured.warnings(), *_share_warning(loaded, settings)),
        rows=tuple(_shown(loaded, renderer, settings)),
    )


def _columns(layout: Layout) -> dict[str, str]:
    if layout.completion is None:
        found = {"conversation": layout.prompt}
    else:
        found = {"prompt": layout.prompt, "completion": layout.completion}
    optional = {role: getattr(layout, role) for role in _OPTIONAL} | {"compared with it": layout.other}
    return found | {role: column for role, column in optional.items() if column is not None}


def _renderer(settings: InspectionSettings) -> Renderer:
    if settings.model is not None:
        spec = ModelSpec(settings.model, settings.revision, trust_remote_code=settings.trust_remote_code)
        return load_renderer(spec, settings)
    if settings.template == "chat":
        raise ConfigError("template chat is that of a tokenizer; name a model with model")
    return Renderer(None, "paper", settings.max_length)


@dataclass
class _Measured:
    """Renders each record and keeps its counts."""

    renderer: Renderer
    totals: list[int] = field(default_factory=list)
    n_learned: int = 0
    n_truncated: int = 0
    n_unknown: int = 0

    def __post_init__(self) -> None:
        self.trial = Trial(self.renderer)
        tokenizer = self.renderer.tokenizer
        used = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
        # Many tokenizers know all text, and name a token for what is unknown that means something else.
        self._unknown = {getattr(tokenizer, "unk_token_id", None)} - {None, *used}

    def __call__(self, record: Record) -> None:
        tokens = self.trial(record)
        self.totals.append(len(tokens.input_ids) + tokens.n_lost)
        self.n_learned += tokens.n_learned
        self.n_truncated += tokens.truncated
        self.n_unknown += not self._unknown.isdisjoint(tokens.input_ids)

    def warnings(self) -> list[str]:
        """Returns what the user should know of the rows so far."""
        unknown = (
            f"in {counted(self.n_unknown, 'row')} there is text that the tokenizer does not know; the model reads one "
            f"and the same token for all of it"
        )
        return [*self.trial.warnings(), *([unknown] if self.n_unknown else [])]

    def lengths(self, records: Sequence[Record], max_length: int) -> Lengths | None:
        """Returns the lengths of the records, all of which it was called with, in their order."""
        if not self.totals:
            return None
        totals = np.array(self.totals)
        median, p95 = np.percentile(totals, (50, 95), method="inverted_cdf")
        longest = int(totals.argmax())
        return Lengths(
            median=int(median),
            p95=int(p95),
            longest=int(totals[longest]),
            longest_id=records[longest].id,
            total=int(totals.sum()),
            learned=self.n_learned,
            max_length=max_length,
            n_truncated=self.n_truncated,
        )


def _contents(records: Iterable[Record]) -> dict[str, int]:
    counts = Counter[str]()
    for record in records:
        roles = Counter(message.role for message in record.messages)
        found = {
            "a system turn": roles["system"] > 0,
            "several learned turns": len(record.learned) > 1,
            "turns that are not learned": len(record.learned) < roles["assistant"],
            "tool calls": any(message.tool_calls for message in record.messages),
            "tools": bool(record.tools),
            "thoughts": any(message.reasoning or "<think>" in message.content for message in record.messages),
        }
        counts.update(name for name, holds in found.items() if holds)
    return dict(counts)


def _reasons(rows: Sequence[QuarantinedRow]) -> list[QuarantineReason]:
    counts = Counter(row.kind for row in rows).most_common()
    places = {kind: [row for row in rows if row.kind == kind][:_FIRST_PLACES] for kind, _ in counts}
    return [
        QuarantineReason(kind, n_rows, tuple(_place(row) + _detail(row) for row in places[kind]))
        for kind, n_rows in counts
    ]


def _place(row: QuarantinedRow) -> str:
    return f"{row.file}:{row.line}"


def _detail(row: QuarantinedRow) -> str:
    return row.reason.removeprefix(row.kind)


def _share_warning(loaded: LoadedSet, settings: InspectionSettings) -> list[str]:
    n, n_bad = len(loaded.records) + len(loaded.quarantined), len(loaded.quarantined)
    if n_bad <= settings.max_quarantine_fraction * n:
        return []
    return [
        f"{n_bad:,} of {n:,} rows cannot be used, more than the share allowed, {settings.max_quarantine_fraction:g}: a "
        f"run would stop; fix them, or raise --max-quarantine-fraction"
    ]


def _shown(loaded: LoadedSet, renderer: Renderer, settings: InspectionSettings) -> list[InspectedRow]:
    if settings.row is None:
        return [_inspected(record, renderer, settings) for record in loaded.records[: settings.rows]]
    wanted = settings.row
    found = [record for record in loaded.records if record.id == wanted]
    refused = [row for row in loaded.quarantined if row.row_id == wanted]
    if not found and not refused:  # an id that is a number comes before a line
        found = [record for record in loaded.records if wanted in (record.origin, record.origin.rpartition(":")[2])]
        refused = [row for row in loaded.quarantined if wanted in (_place(row), str(row.line))]
    if not found and not refused:
        raise DataError(
            f"{settings.data}: no row that is read has the id or line {wanted!r}; ids are like "
            f"{loaded.records[0].id!r}, and lines are counted from 1"
        )
    return [
        *(_inspected(record, renderer, settings) for record in found),
        *(InspectedRow(row.row_id or "", _place(row), quarantined=row.reason) for row in refused),
    ]


def _inspected(record: Record, renderer: Renderer, settings: InspectionSettings) -> InspectedRow:
    if settings.model is None:
        return InspectedRow(record.id, record.origin, text_pieces(renderer.text(record)))
    tokens = renderer.tokens(record)
    return InspectedRow(
        id=record.id,
        place=record.origin,
        pieces=token_pieces(tokens, renderer.tokenizer),
        n_tokens=len(tokens.input_ids) + tokens.n_lost,
        n_learned=tokens.n_learned,
        n_lost=tokens.n_lost,
        n_special=tokens.n_literal,
        lossy=tokens.lossy,
        omits=tokens.omits,
    )
