"""A whole comparison, from its settings to its tables and its page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder
from sotune.comparison.draws import Draws
from sotune.comparison.measure import Budget, Draw
from sotune.comparison.results import summarize, write_results
from sotune.comparison.run import Comparison, PlannedCell
from sotune.comparison.settings import MINIATURE, CompareSettings, FileData, MiniatureData
from sotune.evaluation import Judge, JudgeRole
from sotune.evaluation.judges import model_free_judges
from sotune.monitoring import Monitor, Silent

FIGURES = ("harmful_rate", "refusal_rate", "utility", "over_refusal", "coherence", "avg")


@dataclass(frozen=True)
class CompareSummary:
    """What a comparison found.

    Attributes:
        report: The page.
        results: compare.json.
        files: All that was written.
        means: Method to its figures, means over data sets, shares and seeds.
        seconds: How long this call took.
    """

    report: str
    results: str
    files: tuple[str, ...]
    means: dict[str, dict[str, float]]
    seconds: float


def run_comparison(settings: CompareSettings, out: Path, monitor: Monitor, *, page: str) -> CompareSummary:
    """Does every cell that is not done and writes results, tables and page; goes on where an earlier call stopped.

    Args:
        settings: What to compare.
        out: The folder.
        monitor: Is told of progress.
        page: File name of the page.

    Raises:
        ArtifactError: ``out`` holds something else.
        ConfigError: A source or a method does not fit the settings.
        DataError: A source cannot be read, or prompts stand in two roles.
    """
    from sotune.reporting import write_comparison_report, write_comparison_tables

    started = time.monotonic()
    run = RunFolder(out)
    draws = Draws(settings)
    with run.lock():
        results = _comparison(settings, out, monitor, draws).run(draws.all())
        written = write_results(out, results, settings=described(settings), safe_to_show=_is_made_up(settings))
        written = [*written, *write_comparison_tables(out), write_comparison_report(out, page=page)]
    return CompareSummary(
        report=str(out / page),
        results=str(out / "compare.json"),
        files=tuple(str(path) for path in written),
        means=summarize([cell.row for _, cells in results for cell in cells.values()], FIGURES),
        seconds=time.monotonic() - started,
    )


def plan_comparison(settings: CompareSettings, out: Path) -> list[PlannedCell]:
    """Lists the cells and which are done; touches nothing, and reads data only where results lie.

    Raises:
        ConfigError: A method does not fit the settings.
    """
    draws = Draws(settings)
    return _comparison(settings, out, Silent(), draws).plan(draws.names(), draws.make)


def make_budget(settings: CompareSettings) -> Budget:
    """Returns what all methods share."""
    from sotune.miniature import model_path
    from sotune.models import ModelSpec
    from sotune.training import TrainSettings

    shared = ("r", "lora_alpha", "lora_dropout", "target_modules", "learning_rate", "warmup_ratio",
              "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
              "save_steps", "max_length", "template")  # fmt: skip
    return Budget(
        model=ModelSpec(
            str(model_path()) if settings.model == MINIATURE else settings.model,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        ),
        training=TrainSettings(**{name: getattr(settings, name) for name in shared}),
        keep_fraction=settings.keep_fraction,
        max_new_tokens=settings.max_new_tokens,
        layer=settings.layer,
        pooling=settings.pooling,
        batch_tokens=settings.batch_tokens,
        eval_batch_size=settings.eval_batch_size,
    )


def described(settings: CompareSettings) -> Mapping[str, Any]:
    """Returns the settings as the page lists them."""
    given = settings.model_dump(mode="json", exclude_none=True)
    given["methods"] = [variant.name for variant in settings.variants()]
    given["datasets"] = [data.name for data in settings.datasets]
    given["model"] = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
    return given


def _comparison(settings: CompareSettings, out: Path, monitor: Monitor, draws: Draws) -> Comparison:
    own = {data.name: data.task_match for data in settings.datasets if isinstance(data, FileData)}

    def judges(draw: Draw) -> Mapping[JudgeRole, Judge]:
        return model_free_judges(settings.judges, task_match=own.get(draw.dataset) or settings.task_match)

    return Comparison(
        settings.variants(),
        make_budget(settings),
        judges,
        folder=out,
        monitor=monitor,
        workers=settings.workers,
        threads=settings.threads,
        redraw=draws.redraw,
    )


def _is_made_up(settings: CompareSettings) -> bool:
    """Tells whether all texts are the miniature's, whose harm is no one's."""
    return all(isinstance(data, MiniatureData) for data in settings.datasets)
