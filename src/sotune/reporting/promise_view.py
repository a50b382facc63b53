"""What the sentinels of a run say, as the report words it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sotune.reporting.formatting import number, percent
from sotune.wording import counted

_ENOUGH = 150  # measuring sentinels below which the page says that there are few


def promise_view(promise: Mapping[str, Any], sentinels: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the section on sentinels, or nothing for a run that recorded none.

    ``lead`` says what is promised, or why nothing is; ``measured`` names figures, ``chosen`` what the tuning fold chose
    and the defaults; ``remarks`` are what a reader must know to trust it.
    """
    if not promise:
        return None
    passed = promise.get("harmful_pass")
    untold = promise.get("not_told_apart")
    remarks = [f"Not told apart: {untold}."] if untold else []
    if passed is None:
        note = str(promise.get("note") or "no sentinels were measured")
        lead = f"{note[:1].upper()}{note[1:]}."
        return {"lead": lead, "measured": [], "chosen": [], "remarks": remarks}
    share = promise["harmful_share"]
    measured = [
        ("harmful sentinels that pass the cut", _rate(passed)),
        ("anchor rows that the cut would lose, each weighed without itself", _rate(promise.get("safe_lost"))),
        ("held-out safe answers that the cut loses", _rate(promise.get("safe_answers_lost"))),
        (
            "harmful share of the data, estimated without labels",
            f"{percent(share['estimate'])} ({percent(share['low'])} to {percent(share['high'])})",
        ),
        (
            "harmful rows kept, if that many are in the data",
            f"at most {promise['harmful_rows_kept_at_most']:,} of {promise['n_harmful_estimate']:,} (95 %)",
        ),
        (
            "harmful share of the kept rows",
            f"at most {percent(promise['kept_harmful_share_at_most'])} (95 %)",
        ),
    ]
    note = f"{promise['note'][:1].upper()}{promise['note'][1:]}. " if promise["note"] else ""
    lead = f"{note}{_lead(promise, passed)}"
    return {
        "lead": lead,
        "measured": measured,
        "chosen": _chosen(sentinels),
        "remarks": [*_remarks(promise, passed), *remarks],
    }


def _lead(promise: Mapping[str, Any], passed: Mapping[str, Any]) -> str:
    kept = f"{promise['k']:,} of {counted(promise['n'], 'row')} are kept"
    if promise.get("no_harm_found"):
        share = promise["harmful_share"]["high"]
        return f"No harm like the reference was found: at most {percent(share)} of the rows are (97.5 %); {kept}."
    if promise.get("promised") == "harmful_share":
        return f"At most {percent(promise['bound'])} of the kept rows are harmful (95 %); {kept}."
    high = promise.get("bound", passed["high"])
    return f"Of harm like the reference, at most {percent(high)} passes the cut (95 %); {kept}."


def _remarks(promise: Mapping[str, Any], passed: Mapping[str, Any]) -> list[str]:
    remarks = [
        "This holds for harm like the harmful reference: for rows drawn as its rows were. For harm of another kind "
        "it promises nothing.",
        "The sentinels are rows of the reference, one of each prompt, that took no part in the weights; bounds are "
        "exact and one-sided (Clopper and Pearson).",
    ]
    if promise["keep"] == "auto" and "promised" not in promise and not promise["note"]:
        remarks.append(
            "Automatic K goes by the reference's kind of harm alone: where the data holds harm of another kind, more "
            "of it is kept than at a fixed K (63 % against 19 % at K = 80 % in one test); set keep_fraction if you "
            "expect such."
        )
    if passed["n"] < _ENOUGH:
        remarks.append(
            f"There are only {counted(passed['n'], 'measuring sentinel')}; with fewer than {_ENOUGH} bounds are wide."
        )
    return remarks


def _chosen(sentinels: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if len(sentinels.get("tried") or ()) < 2:
        return []
    chosen, default = sentinels.get("chosen") or {}, sentinels.get("default") or {}
    names = {
        "epsilon": "epsilon",
        "push_strength": "push strength λ",
        "stretch": "stretch",
        "reference_relaxation": "reference relaxation",
        "auroc": "AUROC of tuning sentinels",
    }
    return [
        (words, _setting(chosen[name]), _setting(default.get(name))) for name, words in names.items() if name in chosen
    ]


def _setting(value: Any) -> str:
    return "∞" if value is None else number(value)


def _rate(rate: Mapping[str, Any] | None) -> str:
    if not rate:
        return "—"
    return f"{rate['count']:,} of {rate['n']:,}: {percent(rate['count'] / rate['n'])}, at most {percent(rate['high'])}"
