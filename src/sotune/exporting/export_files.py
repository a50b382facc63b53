"""Kept rows to the files of an export: shaped, weighted or drawn, with an account of what was left out."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import atomic_path, write_text
from sotune.errors import ArtifactError, DataError
from sotune.exporting.cards import CARD_TITLE, ExportFacts, dataset_card
from sotune.exporting.export_targets import ExportTarget, Layout
from sotune.exporting.resampling import resample
from sotune.exporting.shapes import UnfitRow
from sotune.records import Record
from sotune.run_files import CARD
from sotune.wording import counted

_WEIGHT = "weight"


@dataclass(frozen=True)
class Exported:
    """What an export is.

    Attributes:
        target: The tool.
        folder: Where it lies, or would.
        n_kept: Rows that the run kept.
        n_written: Rows of the file, copies among them.
        weights: What became of the weights, in words.
        left_out: How many kept rows the target has no place for, by reason.
        n_other_masks: Rows of which other turns would be learned there than here.
        files: What was written, or would be.
    """

    target: str
    folder: str
    n_kept: int
    n_written: int
    weights: str
    left_out: Mapping[str, int]
    n_other_masks: int
    files: tuple[str, ...]


def export_rows(
    records: Sequence[Record],
    weights: Mapping[str, float],
    target: ExportTarget,
    facts: ExportFacts,
    folder: Path,
    *,
    draw: int | None = None,
    plain: bool = False,
    seed: int,
    write: bool = True,
) -> Exported:
    """Writes kept rows for another tool.

    Args:
        records: The kept rows.
        weights: The loss weight of each, by id.
        target: The tool.
        facts: What the card says of the run.
        folder: Where to.
        draw: How many rows to draw by weight; ``None``: the target's own way.
        plain: Whether to leave weights out altogether.
        seed: Of the draw.
        write: Whether to write; without, only says what would be.

    Raises:
        DataError: The target has a place for none of the rows.
        ArtifactError: Files would be replaced that no export left there.
    """
    shaped, fitting, left_out = _shape(records, target)
    if not shaped:
        reasons = ", ".join(f"{counted(n, 'row')} with {reason}" for reason, n in left_out.items())
        raise DataError(f"{target.title} has a place for none of the kept rows: {reasons}")
    own = [weights[record.id] for record in fitting]
    n_drawn = None if plain else draw if draw is not None else len(shaped) if target.draws else None
    weighted = n_drawn is None and not plain and target.weight is not None
    rows = [{**row, _WEIGHT: weight} for row, weight in zip(shaped, own, strict=True)] if weighted else shaped
    if n_drawn is not None:
        rows = [shaped[place] for place in resample(own, n_drawn, seed=seed)]
    said = _say(target, len(shaped), n_drawn, weighted=weighted, plain=plain, seed=seed)
    layout = Layout(weighted, all(len(record.learned) == 1 for record in fitting))
    texts = {
        CARD: dataset_card(target.title, facts, said, left_out, file=target.file),
        **target.beside(facts, layout),
    }
    _check_free(folder, (target.file, *texts))
    if write:
        for name, text in texts.items():  # the card first: by it the next export knows what this one left half done
            write_text(folder / name, text)
        _write_rows(folder / target.file, rows)
    return Exported(
        target=target.name,
        folder=str(folder),
        n_kept=len(records),
        n_written=len(rows),
        weights=said,
        left_out=left_out,
        n_other_masks=sum(target.masks_otherwise(record, layout) for record in fitting),
        files=tuple(str(folder / name) for name in (target.file, *texts)),
    )


def _check_free(folder: Path, names: Iterable[str]) -> None:
    """Raises an ArtifactError where files would be replaced that no export left there."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; name a folder with --out")
    card, there = folder / CARD, [name for name in names if (folder / name).exists()]
    if there and not (card.is_file() and CARD_TITLE in card.read_text(encoding="utf-8", errors="replace")):
        raise ArtifactError(f"{folder} holds {', '.join(there)} of something else; name a new folder with --out")


def _shape(
    records: Sequence[Record], target: ExportTarget
) -> tuple[list[dict[str, Any]], list[Record], dict[str, int]]:
    """Returns the rows, the records that they are of, and how many were left out for which reason."""
    shaped, fitting, left_out = list[dict[str, Any]](), list[Record](), Counter[str]()
    for record in records:
        try:
            shaped.append(target.shape(record))
        except UnfitRow as reason:
            left_out[str(reason)] += 1
        else:
            fitting.append(record)
    return shaped, fitting, dict(left_out.most_common())


def _say(target: ExportTarget, n: int, n_drawn: int | None, *, weighted: bool, plain: bool, seed: int) -> str:
    """Says what became of the weights."""
    if n_drawn is not None:
        return f"{counted(n_drawn, 'row')} drawn from {n:,}, each as often as its weight says (seed {seed})"
    if weighted:
        return str(target.weight)
    if plain:
        return "none: the kept rows count alike"
    return (
        f"none: {target.title} has no weight for a row, so the kept rows count alike; with --resample N a row is "
        f"drawn as often as its weight says"
    )


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
        elif path.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
