"""Fourth stage: weights to kept rows and loss weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sotune.artifacts import RunFolder
from sotune.methods import method_named
from sotune.monitoring import Monitor
from sotune.pipeline.promising import make_promise
from sotune.pipeline.record_sets import PREFIXES, OwnRow, check_weight_column, kinds_of, read_own_rows
from sotune.pipeline.stage import Figures, Stage
from sotune.records import SetName
from sotune.run_files import KEPT, PROMISE, REPRESENTATIONS, SELECTION, SOLVER, WEIGHTS
from sotune.selection import Evidence, SelectedRow, explain_row, log_margin, select_rows
from sotune.settings import RunConfig, SelectionSettings

_CALLED: dict[SetName, str] = {
    "safe_anchor": "task rows",
    "safe_reference": "safe answers",
    "harmful_reference": "harm",
}
_EVIDENCE = tuple(
    column for name in _CALLED for column in (f"nearest_{PREFIXES[name]}", f"least_{PREFIXES[name]}_cost")
)

_NOT_READ = "some of what is learned of it was not read"


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": config.part(SelectionSettings).model_dump(mode="json")}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    weights = WEIGHTS.columns_of(run, "id", "weight", *_EVIDENCE)
    own = read_own_rows(run)
    check_weight_column(own.values(), config.weight_column)
    solver = SOLVER.read(run)
    promised = make_promise(config, run, weights["weight"], k=solver["k"])
    looked = REPRESENTATIONS.rows_of(run, "id", "view", "unread", where={"set": ["downstream"]})
    rows = select_rows(
        weights["id"],
        weights["weight"],
        k=promised.k,
        loss_weight_rule=config.loss_weight_rule,
        because=_because(config, promised.described, solver["k"]),
        refused={row["id"]: _NOT_READ for row in looked if row["unread"]} if config.unread == "drop" else None,
    )
    margins = [log_margin(row.weight, promised.cut_weight) for row in rows]
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in ("id", "weight", "loss_weight", "rank", "kept", "reason")
    }
    columns["margin"] = margins
    evidence = _evidence(weights)
    columns["explanation"] = [
        explain_row(row, found, margin=margin) + _told_of_look(look, config)
        for row, found, margin, look in zip(rows, evidence, margins, looked, strict=True)
    ]
    kept = KEPT.write(run, _kept_rows(own, rows, weight_column=config.weight_column))
    kinds = count_kinds(kinds_of(config, own), {row.id for row in rows if row.kept})
    described = {**promised.described, **({"kinds": kinds} if kinds else {})}
    if (missing := _missing(config, solver)) is not None:
        described["not_told_apart"] = f"safe and harmful answers to risky prompts, {missing}"
    return [SELECTION.write(run, columns), kept, PROMISE.write(run, described)]


def _told_of_look(look: Mapping[str, Any], config: RunConfig) -> str:
    """Says what of a row was read, where that was not the whole."""
    told = f"; it weighs as its {look['view']} does" if look["view"] else ""
    return told + (f"; {_NOT_READ}" if look["unread"] and config.unread == "flag" else "")


def _because(config: RunConfig, described: Mapping[str, Any], own_k: int | None) -> str:
    """Returns in words what the cut follows from."""
    if own_k is not None:
        return "the method itself says how many are kept"
    if config.keep == "fixed":
        return f"k is {config.k}" if config.k is not None else f"keep_fraction is {config.keep_fraction:g}"
    if described["note"]:
        return str(described["note"])
    if "promised" in described:
        return f"as many are kept as max_{described['promised']} {described['limit']:g} allows"
    return f"below the cut at least {config.drop_at:.0%} of the rows seem harmful by the sentinels (drop_at)"


def kept_ids(run: RunFolder) -> set[str]:
    """Returns the ids of the rows that a run's last selection kept; none where there was no selection."""
    if not run.file(SELECTION.name).exists():
        return set()
    return set(SELECTION.columns_of(run, "id", where={"kept": [True]})["id"])


def _missing(config: RunConfig, solver: Mapping[str, Any]) -> str | None:
    """Returns why answers to risky prompts are not told apart; ``None`` where they are, or where all rows are kept."""
    if method_named(config.method).keeps_all:
        return None
    if config.safe_reference is None:
        return "without a safe_reference"
    knows_strength = "cost" in solver  # what push-pull transport alone has
    return "with safe_strength 0" if knows_strength and config.safe_strength == 0 else None


def _evidence(weights: Mapping[str, Sequence[Any]]) -> Iterator[list[Evidence]]:
    """Yields what each row's weight follows from; nothing where the method says nothing of it."""
    for row in zip(*(weights[name] for name in _EVIDENCE), strict=True):
        sides = zip(_CALLED.items(), row[::2], row[1::2], strict=True)
        yield [
            Evidence(called, name != "harmful_reference", nearest, cost)
            for (name, called), nearest, cost in sides
            if nearest and cost is not None
        ]


def count_kinds(kinds: Mapping[str, str], kept: Collection[str]) -> dict[str, dict[str, int]]:
    """Counts the rows of each kind, all and kept.

    Args:
        kinds: What each row is, by id.
        kept: Ids of the kept rows.
    """
    counts: dict[str, dict[str, int]] = {}
    for id, kind in kinds.items():
        entry = counts.setdefault(kind, {"n": 0, "kept": 0})
        entry["n"] += 1
        entry["kept"] += id in kept
    return counts


def _kept_rows(
    own: Mapping[str, OwnRow], rows: Sequence[SelectedRow], *, weight_column: str
) -> Iterator[dict[str, Any]]:
    """Yields the user's own kept rows, in input order, each with its loss weight."""
    loss_weights = {row.id: row.loss_weight for row in rows if row.kept}
    return ({**row.row, weight_column: loss_weights[id]} for id, row in own.items() if id in loss_weights)


def _summarize(run: RunFolder) -> Figures:
    kept, promise = SELECTION.columns_of(run, "kept")["kept"], PROMISE.read(run)
    figures = {"kept": f"{sum(kept):,} of {len(kept):,} rows"}
    if promise["note"]:
        figures["note"] = promise["note"]
    if promise.get("no_harm_found"):
        figures["harm like the reference"] = f"none found, at most {promise['harmful_share']['high']:.1%} of the rows"
    elif (passed := promise.get("harmful_pass")) is not None:
        figures["harm like the reference that passes"] = (
            f"{passed['count']} of {passed['n']} sentinels, at most {passed['high']:.1%} (95 %)"
        )
    if (lost := promise.get("safe_answers_lost")) is not None:
        figures["safe answers lost"] = f"{lost['count']} of {lost['n']} sentinels, at most {lost['high']:.1%} (95 %)"
    if (untold := promise.get("not_told_apart")) is not None:
        figures["not told apart"] = untold
    kinds = sorted(promise.get("kinds", {}).items())
    return figures | {f"{kind} rows kept": f"{n['kept']:,} of {n['n']:,}" for kind, n in kinds}


SELECT = Stage("selection", "select", "weights", _key, _work, _summarize)
