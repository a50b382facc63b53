"""Why some rows of a run were kept or dropped, from its artefacts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, contents_told
from sotune.errors import DataError
from sotune.freshness import require_fresh
from sotune.pipeline.record_sets import PREFIXES, read_some_records
from sotune.records import SetName
from sotune.run_files import SELECTION, WEIGHTS


@dataclass(frozen=True)
class Explanation:
    """Why one row weighs what it weighs.

    Attributes:
        id: The row.
        kept: Whether it is trained on.
        rank: 1 for the largest weight.
        relative_weight: ``n·w``: 1 is the mean.
        margin: ``log(weight / cut)``; below 0 the row is dropped.
        pull_cost: Mean cost of its transport to the safe anchor, in units of cost; ``None`` where the method of the run
            transports nothing.
        push_cost: The same to the harmful reference.
        nearest_safe: Anchor rows with the share of its mass that goes to each, most first; empty likewise.
        nearest_safe_reference: The same of the safe reference; empty where there is none, too.
        nearest_harmful: The same of the harmful reference.
        sentence: All of it in words.
        texts: Prompt and completion by set and id; empty unless they were asked for.
    """

    id: str
    kept: bool
    rank: int
    relative_weight: float
    margin: float
    pull_cost: float | None
    push_cost: float | None
    nearest_safe: Mapping[str, float]
    nearest_safe_reference: Mapping[str, float]
    nearest_harmful: Mapping[str, float]
    sentence: str
    texts: Mapping[str, str]


def explain(folder: str | Path, ids: Sequence[str], *, show_text: bool = False) -> list[Explanation]:
    """Explains some rows of a run.

    Args:
        folder: A run folder whose rows are selected.
        ids: Ids of downstream rows.
        show_text: Whether to hand out texts, which may be harmful.

    Raises:
        ArtifactError: The folder is no run, or its selection is missing or stale.
        DataError: There is no such row.
    """
    run = RunFolder.open(Path(folder))
    require_fresh(run, "weights", "selection")
    with contents_told(run.path):
        return _explained(run, ids, show_text=show_text)


def _explained(run: RunFolder, ids: Sequence[str], *, show_text: bool) -> list[Explanation]:
    n = sum(part.num_rows for part in WEIGHTS.parts_of(run, "id"))
    weighed, selected = ({row["id"]: row for row in t.rows_of(run, where={"id": ids})} for t in (WEIGHTS, SELECTION))
    unknown = [id for id in ids if id not in weighed or id not in selected]
    if unknown:
        raise DataError(f"no such rows among the {n} that were weighed: {unknown[:5]}; check their ids")
    return [_explain(run, weighed[id], selected[id], n, show_text=show_text) for id in ids]


def _explain(
    run: RunFolder, weighed: Mapping[str, Any], selected: Mapping[str, Any], n: int, *, show_text: bool
) -> Explanation:
    nearest = {
        name: dict(zip(weighed[f"nearest_{side}"] or (), weighed[f"nearest_{side}_shares"] or (), strict=True))
        for name, side in PREFIXES.items()
    }
    id: str = weighed["id"]
    cited: dict[SetName, list[str]] = {
        "downstream": [id],
        **{name: list(rows) for name, rows in nearest.items()},
    }
    return Explanation(
        id=id,
        kept=selected["kept"],
        rank=selected["rank"],
        relative_weight=n * weighed["weight"],
        margin=selected["margin"],
        pull_cost=weighed["pull_cost"],
        push_cost=weighed["push_cost"],
        nearest_safe=nearest["safe_anchor"],
        nearest_safe_reference=nearest["safe_reference"],
        nearest_harmful=nearest["harmful_reference"],
        sentence=selected["explanation"],
        texts=_texts(run, cited) if show_text else {},
    )


def _texts(run: RunFolder, cited: Mapping[SetName, Sequence[str]]) -> dict[str, str]:
    """Returns the texts of some rows by set and id, in the order in which they are cited."""
    return {
        f"{name}/{record.id}": "\n".join(f"{m.role}: {m.content}" for m in record.messages)
        for name, ids in cited.items()
        for record in sorted(read_some_records(run, name, ids), key=lambda record: ids.index(record.id))
    }
