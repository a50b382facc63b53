"""Fourth stage: weights to kept rows and loss weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sotune.artifacts import RunFolder
from sotune.errors import ArtifactError, ConfigError
from sotune.methods import method_named
from sotune.monitoring import Monitor
from sotune.pipeline.promising import make_promise
from sotune.pipeline.record_sets import PREFIXES, OwnRow, check_weight_column, kind_of, read_own_rows
from sotune.pipeline.stage import Figures, Stage
from sotune.record_store import Texts, digests_as_array
from sotune.records import DIGEST_BYTES, SetName
from sotune.run_files import KEPT, PROMISE, REPRESENTATIONS, SELECTION, SOLVER, WEIGHTS
from sotune.selection import Evidence, SelectedRow, explain_row, log_margin, select_rows
from sotune.settings import RunConfig, SelectionSettings
from sotune.wording import counted

_CALLED: dict[SetName, str] = {
    "safe_anchor": "task rows",
    "safe_reference": "safe answers",
    "harmful_reference": "harm",
}
_EVIDENCE = tuple(
    column for name in _CALLED for column in (f"nearest_{PREFIXES[name]}", f"least_{PREFIXES[name]}_cost")
)

_DECIDED = ("id", "weight", "loss_weight", "rank", "kept", "reason")
_NOT_READ = "some of what is learned of it was not read"
_UNKNOWN = "it is far from all references, so that its weight says little"


def why_refused(config: SelectionSettings, *, unknown: bool, unread: bool) -> str:
    """Returns why a row is dropped whatever it weighs; empty where it is not."""
    if unread and config.unread == "drop":
        return _NOT_READ
    return _UNKNOWN if unknown and config.unknown == "drop" else ""


def what_is_flagged(config: SelectionSettings, *, unknown: bool, unread: bool) -> str:
    """Returns what is said of a row besides the decision about it, each behind a semicolon."""
    told = f"; {_NOT_READ}" if unread and config.unread == "flag" else ""
    return told + (f"; {_UNKNOWN}" if unknown and config.unknown == "flag" else "")


def _key(config: RunConfig) -> dict[str, Any]:
    return {"settings": config.part(SelectionSettings).model_dump(mode="json")}


def _work(config: RunConfig, run: RunFolder, monitor: Monitor) -> Sequence[str]:
    weights = WEIGHTS.read(run, "id", "weight")
    ids, solver = Texts.of([weights["id"]]), SOLVER.read(run)
    unknown = _is_unknown(run, solver)
    promised = make_promise(config, run, weights["weight"].to_numpy(), k=solver["k"])
    refused = _refused(config, run, unknown)
    rows = select_rows(
        ids,
        weights["weight"].to_numpy(),
        k=promised.k,
        loss_weight_rule=config.loss_weight_rule,
        because=_because(config, promised.described, solver["k"]),
        refused=refused,
    )
    kept_said = said_of_kept(promised.described, rows.n_kept)  # raises before anything is written
    explained = SELECTION.write_rows(run, _explained(config, run, rows, unknown, refused, promised.cut_weight))
    counts: dict[str, dict[str, int]] = {}
    kept = KEPT.write(run, _kept_rows(config, read_own_rows(run), rows, counts))
    described = {**kept_said, **({"kinds": counts} if counts else {}), "cut": rows.cut}
    described["n_unknown"] = 0 if config.unknown == "keep" else int(unknown.sum())
    if (missing := _missing(config, solver)) is not None:
        described["not_told_apart"] = f"safe and harmful answers to risky prompts, {missing}"
    return [explained, kept, PROMISE.write(run, described)]


def _refused(config: RunConfig, run: RunFolder, unknown: NDArray[np.bool_]) -> dict[str, str]:
    """Returns the rows that are dropped whatever they weigh, each with the reason."""
    if "drop" not in (config.unknown, config.unread):
        return {}
    looked = REPRESENTATIONS.rows_of(run, "id", "unread", where={"set": ["downstream"]})
    found = (
        (look["id"], why_refused(config, unknown=far, unread=look["unread"]))
        for look, far in zip(looked, unknown.tolist(), strict=True)
    )
    return {id: why for id, why in found if why}


def _is_unknown(run: RunFolder, solver: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Tells of each row whether it is beyond the reach of every reference; of none where the method knows no costs."""
    reach: Mapping[str, float] = solver.get("reach") or {}
    found = [np.zeros(0, dtype=np.bool_)]
    for part in WEIGHTS.parts_of(run, "id", *(f"least_{side}_cost" for side in reach)):
        beyond = np.full(part.num_rows, len(reach) > 0)
        for side, cost in reach.items():
            beyond &= part[f"least_{side}_cost"].to_numpy() > cost
        found.append(beyond)
    return np.concatenate(found)


def said_of_kept(described: Mapping[str, Any], n_kept: int) -> Mapping[str, Any]:
    """Returns what a promise says where rows within its cut were refused: harm may be a larger share of fewer rows.

    >>> said_of_kept({"k": 80, "kept_harmful_share_at_most": 0.01}, 40)
    {'k': 40, 'kept_harmful_share_at_most': 0.02}

    Raises:
        ConfigError: It is no longer the share that was asked for.
    """
    shares = ["kept_harmful_share_at_most", *(["bound"] if described.get("promised") == "harmful_share" else [])]
    larger = {name: min(1.0, described[name] * described["k"] / max(1, n_kept)) for name in shares if name in described}
    if "bound" in larger and larger["bound"] > described["limit"]:
        raise ConfigError(
            f"unread: drop or unknown: drop leaves out {described['k'] - n_kept} rows within the cut, and of the "
            f"others up to {larger['bound']:.2%} may be harmful, more than max_harmful_share={described['limit']:g}; "
            f"raise max_windows, so that rows are read, or the limit"
        )
    return {**described, "k": n_kept, **larger}


def _explained(
    config: RunConfig,
    run: RunFolder,
    rows: Sequence[SelectedRow],
    unknown: NDArray[np.bool_],
    refused: Mapping[str, str],
    cut_weight: float,
) -> Iterator[dict[str, Any]]:
    """Yields the decision about each row with what it follows from."""
    evidence = WEIGHTS.rows_of(run, "id", *_EVIDENCE)
    looked = REPRESENTATIONS.rows_of(run, "id", "view", "unread", where={"set": ["downstream"]})
    for row, weighed, look, far in zip(rows, evidence, looked, unknown.tolist(), strict=True):
        _check_joined(row.id, weighed["id"], look["id"])
        margin = log_margin(row.weight, cut_weight)
        # Costs say nothing of why a row is dropped that would be whatever it weighs.
        told = explain_row(row, [] if row.id in refused else _evidence(weighed), margin=margin)
        told += f"; it weighs as its {look['view']} does" if look["view"] else ""
        told += what_is_flagged(config, unknown=far, unread=look["unread"])
        yield {**{name: getattr(row, name) for name in _DECIDED}, "margin": margin, "unknown": far, "explanation": told}


def _check_joined(*ids: str) -> None:
    """Raises an ArtifactError where the tables of a run do not have their rows in one order."""
    if len({*ids}) > 1:
        raise ArtifactError(f"the tables of the run hold other rows, {ids}, in one place; run `sotune weigh` again")


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


def kept_rows(run: RunFolder) -> NDArray[np.void]:
    """Returns what names the rows that a run's last selection kept, sorted; nothing where there was no selection."""
    names = bytearray()
    if run.file(SELECTION.name).exists():
        for row in SELECTION.rows_of(run, "id", where={"kept": [True]}):
            names += hashlib.blake2b(row["id"].encode(), digest_size=DIGEST_BYTES).digest()
    return np.sort(digests_as_array(names))


def _missing(config: RunConfig, solver: Mapping[str, Any]) -> str | None:
    """Returns why answers to risky prompts are not told apart; ``None`` where they are, or where all rows are kept."""
    if method_named(config.method).keeps_all:
        return None
    if config.safe_reference is None:
        return "without a safe_reference"
    knows_strength = "cost" in solver  # what push-pull transport alone has
    return "with safe_strength 0" if knows_strength and config.safe_strength == 0 else None


def _evidence(weighed: Mapping[str, Any]) -> list[Evidence]:
    """Returns what a row's weight follows from; nothing where the method says nothing of it."""
    found = []
    for name, called in _CALLED.items():
        nearest, cost = weighed[f"nearest_{PREFIXES[name]}"], weighed[f"least_{PREFIXES[name]}_cost"]
        if nearest and cost is not None:
            found.append(Evidence(called, name != "harmful_reference", nearest, cost))
    return found


def _kept_rows(
    config: RunConfig, own: Iterable[tuple[str, OwnRow]], rows: Iterable[SelectedRow], counts: dict[str, dict[str, int]]
) -> Iterator[dict[str, Any]]:
    """Yields the user's own kept rows, in input order, each with its loss weight.

    Args:
        config: The settings.
        own: All rows, each with its id.
        rows: What was decided about them.
        counts: Gets the number of rows of each kind, all and kept, where a column says what they are.
    """
    for (id, one), row in zip(own, rows, strict=True):
        _check_joined(id, row.id)
        check_weight_column(one, config.weight_column)
        if config.truth_column is not None:
            entry = counts.setdefault(kind_of(config, one), {"n": 0, "kept": 0})
            entry["n"] += 1
            entry["kept"] += row.kept
        if row.kept:
            yield {**one.row, config.weight_column: row.loss_weight}


def _summarize(run: RunFolder) -> Figures:
    kept, promise = SELECTION.read(run, "kept")["kept"].to_numpy(), PROMISE.read(run)
    figures = {"kept": f"{kept.sum():,} of {len(kept):,} rows"}
    if promise["n_unknown"]:
        figures["far from all references"] = f"{counted(promise['n_unknown'], 'row')}, of which the weight says little"
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


SELECT = Stage("selection", "select", "weights", _key, _work, _summarize, version=3)
