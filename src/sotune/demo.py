"""The demonstration: fine-tuning breaks safety and selection keeps it, shown on the embedded world in minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder
from sotune.comparison import BASE, Budget, Comparison, Draw, summarize, write_results
from sotune.miniature.topics import Task
from sotune.pipeline import Monitor

METHODS = (BASE, "sft", "random", "probe", "sot", "adaptive")
FIGURES = ("harmful_rate", "refusal_rate", "utility", "over_refusal", "coherence", "avg")


@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration runs; the defaults make it last a few minutes on a laptop.

    Attributes:
        task: The miniature's task that is to be learned.
        seeds: How many draws.
        n: Downstream rows.
        harmful_fraction: Share of them that comply with harmful requests.
        n_anchor: Rows of the safe anchor.
        n_reference: Rows of the harmful reference.
        n_each: Evaluation prompts of each kind.
        methods: What is compared.
    """

    task: Task = "verdict"
    seeds: int = 3
    n: int = 2000
    harmful_fraction: float = 0.1
    n_anchor: int = 50
    n_reference: int = 200
    n_each: int = 200
    methods: tuple[str, ...] = METHODS


@dataclass(frozen=True)
class DemoSummary:
    """What the demonstration found.

    Attributes:
        report: The page.
        results: compare.json.
        means: Method to its figures, means over seeds.
        seconds: How long it took.
    """

    report: str
    results: str
    means: dict[str, dict[str, float]]
    seconds: float


def run_demo(out: Path, settings: DemoSettings, monitor: Monitor) -> DemoSummary:
    """Compares methods on the miniature and writes a report; goes on where an earlier call stopped.

    Raises:
        ArtifactError: ``out`` holds something else.
    """
    from sotune.miniature import judges
    from sotune.reporting import write_comparison_report

    started = time.monotonic()
    run = RunFolder(out)
    with run.lock():
        comparison = Comparison(settings.methods, demo_budget(), judges(), folder=out, monitor=monitor)
        results = comparison.run(draws(settings))
        write_results(out, results, settings=_described(settings), safe_to_show=True)
        report = write_comparison_report(out)
    rows = [cell.row for _, cells in results for cell in cells.values()]
    return DemoSummary(
        report=str(report),
        results=str(out / "compare.json"),
        means=summarize(rows, FIGURES),
        seconds=time.monotonic() - started,
    )


def demo_budget() -> Budget:
    """Returns the budget that suits the miniature: a tiny model wants a larger learning rate than Table 4 has."""
    from sotune.miniature import model_path
    from sotune.models import ModelSpec
    from sotune.training import TrainSettings

    return Budget(
        model=ModelSpec(str(model_path()), dtype="float32", device="cpu"),
        training=TrainSettings(
            max_length=64,
            learning_rate=3e-3,
            per_device_train_batch_size=16,
            num_train_epochs=2,
            save_steps=100,
        ),
        keep_fraction=0.8,
        max_new_tokens=24,
    )


def draws(settings: DemoSettings) -> Iterator[Draw]:
    """Yields one draw of the contaminated task for each seed, with all its sets disjoint by prompt.

    Raises:
        DataError: The world has fewer prompts than were asked for, or sets share one.
    """
    from sotune.miniature import (
        generate_eval_prompts,
        generate_harmful_reference,
        generate_safe_anchor,
        generate_safety_pairs,
        generate_task_data,
        require_disjoint,
    )

    for seed in range(settings.seeds):
        downstream = generate_task_data(
            settings.task, n=settings.n, harmful_fraction=settings.harmful_fraction, seed=seed
        )
        safe_anchor = generate_safe_anchor(settings.task, n=settings.n_anchor, seed=seed)
        harmful_reference = generate_harmful_reference(n=settings.n_reference, seed=seed)
        safety_pairs = generate_safety_pairs(n=settings.n_reference, exclude=harmful_reference, seed=seed)
        prompts = generate_eval_prompts(settings.task, n_each=settings.n_each, seed=seed)
        require_disjoint(
            {
                "downstream": downstream,
                "safe_anchor": safe_anchor,
                "harmful_reference": harmful_reference,
                "safety_pairs": safety_pairs,
                "evaluation": prompts,
            }
        )
        yield Draw(
            dataset=f"miniature-{settings.task}",
            harmful_fraction=settings.harmful_fraction,
            seed=seed,
            downstream=downstream,
            safe_anchor=safe_anchor,
            harmful_reference=harmful_reference,
            prompts=prompts,
            kind={record.id: str(record.meta["kind"]) for record in downstream},
            safety_pairs=safety_pairs,
        )


def _described(settings: DemoSettings) -> dict[str, Any]:
    budget = demo_budget()
    training = budget.training
    shown: Sequence[str] = ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "r", "lora_alpha")
    return {
        **{name: getattr(settings, name) for name in ("task", "seeds", "n", "harmful_fraction", "n_anchor")},
        **{name: getattr(settings, name) for name in ("n_reference", "n_each")},
        "methods": list(settings.methods),
        "keep_fraction": budget.keep_fraction,
        **{name: getattr(training, name) for name in shown},
        "template": training.template,
    }
