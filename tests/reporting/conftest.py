"""Sample artefacts: small, made up, and as hostile as asked."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report_pages import described
from sotune.artifacts import RunFolder, write_json
from sotune.run_files import SELECTION, WEIGHTS

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "</style><script>alert(2)</script>",
    '"><svg onload=alert(3)>',
    "{{7*7}}{% raw %}",
    "\u202egnp.exe",
    "z" * 10_000,
    "&lt;b&gt;\x00\x1b[31m",
    "lone surrogate \ud800",
)


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Texts that a page must show and never obey."""
    return HOSTILE


@pytest.fixture
def make_run(tmp_path) -> Callable[..., RunFolder]:
    """Returns a function that writes a run folder around given relative weights."""

    def make(
        relative_weights: Sequence[float] = (2.0, 1.0, 0.75, 0.25),
        *,
        ids: Sequence[str] | None = None,
        n_kept: int | None = None,
        solver: dict[str, Any] | None = None,
        records: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        name: str = "run",
    ) -> RunFolder:
        run = RunFolder(tmp_path / name)
        n = len(relative_weights)
        ids = list(ids or (f"row-{index}" for index in range(n)))
        weights = [weight / n for weight in relative_weights]
        order = sorted(range(n), key=lambda index: (-weights[index], ids[index]))
        kept = set(order[: n if n_kept is None else n_kept])
        rank = {index: place + 1 for place, index in enumerate(order)}
        costs = np.random.default_rng(0).random((4, n)).tolist()
        names = ("pull_cost", "push_cost", "pull_potential", "push_potential")
        WEIGHTS.write(run, {"id": ids, "weight": weights, **dict(zip(names, costs, strict=True))})
        shuffled = order[::-1]  # joined by id, never by position
        SELECTION.write(
            run,
            {
                "id": [ids[index] for index in shuffled],
                "weight": [weights[index] for index in shuffled],
                "loss_weight": [1.0 if index in kept else None for index in shuffled],
                "rank": [rank[index] for index in shuffled],
                "kept": [index in kept for index in shuffled],
                "reason": ["among the largest" if index in kept else "below the cut" for index in shuffled],
                "margin": [0.0] * n,
                "unknown": [False] * n,
                "explanation": [""] * n,
            },
        )
        for file, value in (("solver.json", solver), ("records.json", records), ("config.json", config)):
            if value is not None:
                write_json(run.file(file), value)
        return run

    return make


@pytest.fixture
def make_comparison(tmp_path) -> Callable[..., Path]:
    """Returns a function that writes compare.json for methods given as metric means, and details."""

    def make(
        methods: dict[str, dict[str, float]],
        *,
        seeds: int = 3,
        conditions: Sequence[tuple[str, float]] = (("labels", 0.1),),
        details: dict[str, Any] | None = None,
    ) -> Path:
        (tmp_path / "compare.json").write_text(json.dumps(_rows(methods, seeds=seeds, conditions=conditions)))
        if details is not None:
            (tmp_path / "details.json").write_text(json.dumps(details))
        return tmp_path

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    """Returns a function that makes the rows of a compare.json."""
    return _rows


def _rows(
    methods: dict[str, dict[str, float]],
    *,
    seeds: int = 3,
    conditions: Sequence[tuple[str, float]] = (("labels", 0.1),),
    half_width: float = 0.02,
) -> list[dict[str, Any]]:
    """Returns the rows of a compare.json; metrics that are not given are 1, or 0 for the harms."""
    neutral = {"harmful_rate": 0.0, "refusal_rate": 1.0, "utility": 0.97, "over_refusal": 0.0, "coherence": 1.0}
    rows = []
    for dataset, share in conditions:
        for method, given in methods.items():
            for seed in range(seeds):
                row: dict[str, Any] = {"method": method, "dataset": dataset, "harmful_fraction": share, "seed": seed}
                row |= described(method)
                metrics = neutral | given
                metrics["avg"] = (metrics["utility"] + 1 - metrics["harmful_rate"]) / 2
                for metric, value in metrics.items():
                    row |= {
                        metric: value,
                        f"{metric}_low": max(value - half_width, 0.0),
                        f"{metric}_high": min(value + half_width, 1.0),
                    }
                rows.append(row | {"seconds": 12.5, "peak_bytes": 1_500_000_000})
    return rows
