"""Why some rows of a run were kept or dropped, from its artefacts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, read_parquet
from sotune.errors import DataError
from sotune.pipeline.record_sets import read_records


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
        ArtifactError: The folder is no run, or its rows are not selected.
        DataError: There is no such row.
    """
    run = RunFolder.open(Path(folder))
    weights, selection = read_parquet(run.file("weights.parquet")), read_parquet(run.file("selection.parquet"))
    weighed = {id: position for position, id in enumerate(weights["id"])}
    selected = {id: position for position, id in enumerate(selection["id"])}
    unknown = [id for id in ids if id not in weighed or id not in selected]
    if unknown:
        raise DataError(f"no such rows among the {len(weighed)} that were weighed: {unknown[:5]}; check their ids")
    texts = _texts(run) if show_text else {}
    return [_explain(id, _at(weights, weighed[id]), _at(selection, selected[id]), len(weighed), texts) for id in ids]


def _at(columns: Mapping[str, Sequence[Any]], position: int) -> dict[str, Any]:
    return {name: values[position] for name, values in columns.items()}


def _explain(
    id: str, weighed: Mapping[str, Any], selected: Mapping[str, Any], n: int, texts: Mapping[tuple[str, str], str]
) -> Explanation:
    nearest = {
        side: dict(zip(weighed.get(f"nearest_{side}", ()), weighed.get(f"nearest_{side}_shares", ()), strict=True))
        for side in ("safe", "harmful")
    }
    cited = [("downstream", id), *(("safe_anchor", other) for other in nearest["safe"])]
    cited += [("harmful_reference", other) for other in nearest["harmful"]]
    return Explanation(
        id=id,
        kept=selected["kept"],
        rank=selected["rank"],
        relative_weight=n * weighed["weight"],
        margin=selected["margin"],
        pull_cost=weighed.get("pull_cost"),
        push_cost=weighed.get("push_cost"),
        nearest_safe=nearest["safe"],
        nearest_harmful=nearest["harmful"],
        sentence=selected["explanation"],
        texts={f"{name}/{other}": texts[name, other] for name, other in cited if (name, other) in texts},
    )


def _texts(run: RunFolder) -> dict[tuple[str, str], str]:
    return {
        (name, record.id): "\n".join(f"{m.role}: {m.content}" for m in record.messages)
        for name, records in read_records(run).items()
        for record in records
    }
