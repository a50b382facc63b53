"""Part 5: what Table 7's set-up would take: nothing here is run in full, all of it is scaled from the other parts."""

from __future__ import annotations

from typing import Any

from bench import Bench, lengths

PART = "table7"
_ROWS, _ANCHOR, _REFERENCE, _KEPT, _EPOCHS = 5000, 50, 5000, 4000, 2


def run(bench: Bench) -> None:
    """Notes the estimate."""
    bench.attempt(PART, "estimate", lambda: estimate(bench.results()))


def estimate(results: dict[str, Any]) -> dict[str, Any]:
    """Scales the measured rates to 5,000 + 50 + 5,000 rows and 4,000 rows for two epochs."""
    extraction, training, solver = (results.get(name, {}) for name in ("extraction", "training", "solver"))
    tokens = sum(lengths(_ROWS + _ANCHOR + _REFERENCE, median=160, longest=1024, seed=1))
    found: dict[str, Any] = {
        "note": "scaled from measured rates, not run in full; lengths log-normal around 160 tokens",
        "rows_encoded": _ROWS + _ANCHOR + _REFERENCE,
        "tokens_encoded": tokens,
        "rows_trained": _KEPT * _EPOCHS,
        "layers": extraction.get("layers"),
    }
    for name, contestant in extraction.get("contestants", {}).items():
        found[f"encode_seconds_{name}"] = round(tokens / contestant["tokens_per_second"], 1)
    for name, measured in solver.items():
        if isinstance(measured, dict) and "seconds" in measured and name.split("_")[1] == str(_ROWS):
            found[f"weigh_seconds_{name}"] = measured["seconds"]["median"]
    for case, batch in (("batch_1", 1), ("batch_4", 4)):
        for name, measured in training.get(case, {}).items():
            steps = _KEPT * _EPOCHS / batch
            found[f"train_seconds_{case}_{name}"] = round(measured["seconds_per_step"]["median"] * steps, 1)
    weigh = found.get(f"weigh_seconds_adaptive_{_ROWS}_cpu")
    encode = found.get("encode_seconds_ours")
    if weigh is not None and encode is not None:
        found["selection_seconds"] = round(weigh + encode, 1)  # a run solves on the CPU
        for case in ("batch_1", "batch_4"):
            if f"train_seconds_{case}_ours" in found:
                share = found["selection_seconds"] / found[f"train_seconds_{case}_ours"]
                found[f"selection_over_training_{case}"] = round(share, 4)
    return found
