"""What a run folder says, read for the report: rows joined by id, and whatever may be missing made explicit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sotune.artifacts import RunFolder
from sotune.errors import ArtifactError
from sotune.evaluation.outcome import NOT_EVALUATED, load_evaluation
from sotune.freshness import is_fresh, stale_stages
from sotune.record_store import Picked, Texts
from sotune.records import SET_NAMES, Message, load_messages
from sotune.run_files import (
    CONFIG,
    ENCODING,
    PROMISE,
    QUARANTINE,
    READING,
    RECORDS,
    SELECTION,
    SENTINEL_SUMMARY,
    SOLVER,
    TRAINING,
    TRAINING_LOG,
    WEIGHTS,
)

if TYPE_CHECKING:
    import pyarrow as pa

_N_QUARANTINED_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One downstream row, as weighed and selected.

    Attributes:
        id: The row.
        relative_weight: n · w: 1 is the weight under which all rows count alike.
        pull_cost: Mean cost of its transport to the safe anchor, in units of the ground cost.
        push_cost: Mean cost of its transport to the harmful reference, likewise.
        rank: 1 for the largest weight.
        kept: Whether it is trained on.
        explanation: The decision and its evidence in words.
    """

    id: str
    relative_weight: float
    pull_cost: float | None
    push_cost: float | None
    rank: int
    kept: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class RankedRows:
    """All downstream rows by rank, the largest weight first, in columns.

    Attributes:
        run: Where they lie.
        ids: Their ids.
        relative_weight: See `Row`, ``[n]``.
        pull_cost: See `Row`; NaN where there is none.
        push_cost: Likewise.
        kept: Whether each is trained on, ``[n]``.
    """

    run: RunFolder
    ids: Sequence[str]
    relative_weight: NDArray[np.float64]
    pull_cost: NDArray[np.float64]
    push_cost: NDArray[np.float64]
    kept: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def some(self, places: slice) -> list[Row]:
        """Returns the rows of some places, with what explains them."""
        ids = [*self.ids[places]]
        told = {
            row["id"]: row["explanation"] for row in SELECTION.rows_of(self.run, "id", "explanation", where={"id": ids})
        }
        return [self._row(place, id, told[id]) for place, id in zip(range(len(self))[places], ids, strict=True)]

    def _row(self, place: int, id: str, explanation: str) -> Row:
        pull, push = (
            None if math.isnan(cost[place]) else float(cost[place]) for cost in (self.pull_cost, self.push_cost)
        )
        weight, kept = float(self.relative_weight[place]), bool(self.kept[place])
        return Row(id, weight, pull, push, rank=place + 1, kept=kept, explanation=explanation)


@dataclass(frozen=True, slots=True)
class RunArtifacts:
    """The artefacts of one run.

    Attributes:
        sets: Set name to its counts; empty when not recorded.
        rendering: Which template rows became text by, and what it dropped; empty when no model was named.
        quarantine_reasons: Reason to number of rows.
        quarantined: The first quarantined rows.
        rows: All weighed rows by rank.
        representations: Summary of the encoding; empty when not recorded.
        solver: Solver name to value; empty when not recorded.
        sentinels: What the tuning fold chose, and the folds' sizes; empty when not recorded.
        promise: What the measuring fold says of the cut; empty when not recorded.
        config: The resolved configuration; empty when not recorded.
        training: Summary of the training; empty before one.
        training_steps: The training log, one entry a step; empty before one.
        evaluation: The figures of the evaluation, as ``load_evaluation`` returns them; empty before one.
        versions: Library to its versions, one unless stages ran under different ones.
        warnings: What the stages warned of, each once.
    """

    sets: Mapping[str, Mapping[str, Any]]
    rendering: Mapping[str, Any]
    quarantine_reasons: Mapping[str, int]
    quarantined: Sequence[Mapping[str, Any]]
    rows: RankedRows
    representations: Mapping[str, Any]
    solver: Mapping[str, Any]
    sentinels: Mapping[str, Any]
    promise: Mapping[str, Any]
    config: Mapping[str, Any]
    training: Mapping[str, Any]
    training_steps: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    versions: Mapping[str, Sequence[str]]
    warnings: Sequence[str]


def read_run(run: RunFolder) -> RunArtifacts:
    """Reads what a report needs from a run folder.

    ``weights.parquet`` and ``selection.parquet`` must be there; of the others, what is missing is left empty.

    Raises:
        ArtifactError: A needed file is missing, unreadable, empty, or the two tables hold different rows.
    """
    records, solver = READING.read_if_there(run), SOLVER.read_if_there(run)
    trained = is_fresh(run, "training") and run.file(TRAINING_LOG.name).exists()
    evaluated = is_fresh(run, "evaluation")  # else none yet, or one of an adapter trained anew since
    left_out = [f"left out: {said}" for stage, said in stale_stages(run).items() if stage in ("training", "evaluation")]
    warnings = [*left_out, *(records.get("warnings") or ()), *(solver.get("warnings") or ())]
    return RunArtifacts(
        sets=_in_order(records.get("sets") or {}),
        rendering=records.get("rendering") or {},
        quarantine_reasons=records.get("quarantine_reasons") or {},
        quarantined=_read_quarantined(run),
        rows=_read_rows(run),
        representations=ENCODING.read_if_there(run),
        solver=solver,
        sentinels=SENTINEL_SUMMARY.read_if_there(run),
        promise=PROMISE.read_if_there(run),
        config=CONFIG.read_if_there(run),
        training=TRAINING.read_if_there(run) if trained else {},
        training_steps=[*TRAINING_LOG.read(run)] if trained else [],
        evaluation=load_evaluation(run.path) if evaluated else NOT_EVALUATED,
        versions=_read_versions(run),
        warnings=list(dict.fromkeys(str(warning) for warning in warnings)),
    )


def _in_order(sets: Mapping[str, Any]) -> dict[str, Any]:
    return {name: sets[name] for name in (*SET_NAMES, *sorted(sets.keys() - set(SET_NAMES))) if name in sets}


def _read_rows(run: RunFolder) -> RankedRows:
    weights = WEIGHTS.read(run, "id", "weight", "pull_cost", "push_cost")
    selection = SELECTION.read(run, "id", "rank", "kept")
    places = _places(selection["id"], among=weights["id"])
    if not len(weights) or len(weights) != len(selection) or places.null_count:
        raise ArtifactError(
            f"{run.path}: {WEIGHTS.name} holds {len(weights)} rows and {SELECTION.name} "
            f"{len(selection)}, which must be the same, and at least one; run weigh and select again"
        )
    order = np.argsort(selection["rank"].to_numpy(), kind="stable")
    of_rank = places.to_numpy()[order]
    weight, pull_cost, push_cost = (
        weights[name].to_numpy().astype(np.float64)[of_rank] for name in ("weight", "pull_cost", "push_cost")
    )
    ids = Picked(Texts.of([selection["id"]]), order)
    return RankedRows(run, ids, len(weights) * weight, pull_cost, push_cost, selection["kept"].to_numpy()[order])


def _places(ids: pa.ChunkedArray, *, among: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the place of each id among others, null where it has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if ids.equals(among):  # as a run writes them: no table of them is needed
        return pa.chunked_array([pa.array(np.arange(len(ids)))])
    return pc.index_in(ids, value_set=among.combine_chunks())


def _read_quarantined(run: RunFolder) -> list[Mapping[str, Any]]:
    there = run.file(QUARANTINE.name).exists()
    return [*QUARANTINE.read(run, most=_N_QUARANTINED_SHOWN)] if there else []


def _read_versions(run: RunFolder) -> dict[str, list[str]]:
    """Returns the library versions that the manifests of the stages name in their keys."""
    versions: dict[str, set[str]] = {}
    for stage in run.stages():
        key = run.manifest(stage)["key"]
        for part in ("libraries", "versions"):
            for library, version in (key.get(part) or {}).items():
                versions.setdefault(str(library), set()).add(str(version))
    return {library: sorted(versions[library]) for library in sorted(versions)}


def read_texts(run: RunFolder, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns prompt and completion of some downstream rows by id; nothing when the run holds no texts.

    Raises:
        ArtifactError: ``records.parquet`` is unreadable.
    """
    if not run.file(RECORDS.name).exists():
        return {}
    rows = RECORDS.rows_of(run, "id", "messages", where={"set": ["downstream"], "id": ids})
    return {row["id"]: _texts(load_messages(row["messages"])) for row in rows}


def _texts(messages: Sequence[Message]) -> tuple[str, str]:
    """Returns prompt and completion as text; the prompt's turns are named where there is more than one."""
    *prompt, completion = messages
    if len(prompt) == 1:
        return prompt[0].text, completion.text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in prompt), completion.text
