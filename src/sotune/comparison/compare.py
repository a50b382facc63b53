"""A whole comparison, from its settings to its tables and its page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune import processes
from sotune.artifacts import RunFolder
from sotune.cluster import Engine, engine_of
from sotune.comparison.compare_settings import CompareSettings, MiniatureData
from sotune.comparison.draws import Draws
from sotune.comparison.grid import CELLS, Comparison, PlannedCell
from sotune.comparison.results import summarize, write_results
from sotune.errors import ArtifactError, SotuneError
from sotune.monitoring import Monitor, Silent
from sotune.reporting import write_comparison_report, write_comparison_tables
from sotune.reporting.finding import stand_in_of
from sotune.reporting.summary import METRICS
from sotune.run_files import CONFIG
from sotune.stopping import Stopped
from sotune.wording import counted


@dataclass(frozen=True)
class CompareSummary:
    """What a comparison found.

    Attributes:
        report: The page.
        results: compare.json.
        files: All that was written.
        means: Method to its figures, means over data sets, shares and seeds.
        seconds: How long this call took.
        stand_in: That harm was judged by a stand-in, in words; empty where it was not.
    """

    report: str
    results: str
    files: tuple[str, ...]
    means: dict[str, dict[str, float]]
    seconds: float
    stand_in: str = ""


def run_comparison(settings: CompareSettings, out: Path, monitor: Monitor, *, page: str) -> CompareSummary:
    """Does every cell that is not done and writes results, tables and page; continues where an earlier call stopped.

    Args:
        settings: What to compare.
        out: The folder.
        monitor: Receives progress.
        page: File name of the page.

    Raises:
        ArtifactError: ``out`` holds something else.
        ConfigError: A source or a method does not fit the settings.
        DataError: A source cannot be read, or prompts stand in two roles.
        SotuneError: Cells failed; all others are measured and written.
    """
    helper = _comparison(settings, out, Silent(), Draws(settings))
    return processes.lead(lambda: _run(settings, out, monitor, page), {CELLS: helper.help})


def _run(settings: CompareSettings, out: Path, monitor: Monitor, page: str) -> CompareSummary:
    started = time.monotonic()
    if (out / CONFIG.name).exists():
        raise ArtifactError(f"{out} holds a run, and a comparison would write among its files; name another folder")
    run = RunFolder(out)
    draws, engine = Draws(settings), engine_of(settings, threads=settings.threads, device=settings.device)
    with run.lock():
        for world in settings.worlds():
            world.prepare(monitor)
        try:
            results = _comparison(settings, out, monitor, draws, engine).run(draws.all())
        except Stopped as stopped:
            stopped.tell("compare", "all cells that are done are kept")
            raise
        written = write_results(out, results, settings=described(settings), safe_to_show=_is_made_up(settings))
        written = [*written, *write_comparison_tables(out), write_comparison_report(out, page=page)]
    if results.failures:
        told = "; ".join(f"{failed.draw}: {failed.variant}: {failed.error}" for failed in results.failures)
        raise SotuneError(f"{counted(len(results.failures), 'cell')} failed; all others are in {out / page}: {told}")
    return CompareSummary(
        report=str(out / page),
        results=str(out / "compare.json"),
        files=tuple(str(path) for path in written),
        means=summarize([cell.row for draw in results.draws for cell in draw.cells.values()], METRICS),
        seconds=time.monotonic() - started,
        stand_in=stand_in_of(described(settings)),
    )


def plan_comparison(settings: CompareSettings, out: Path) -> list[PlannedCell]:
    """Lists the cells and which are done; touches nothing, and reads data only where results lie.

    Raises:
        ConfigError: A method does not fit the settings.
    """
    draws = Draws(settings)
    return _comparison(settings, out, Silent(), draws).plan(draws.names(), draws.make)


def described(settings: CompareSettings) -> Mapping[str, Any]:
    """Returns the settings as the page lists them."""
    given = settings.model_dump(mode="json", exclude_none=True)
    given["methods"] = [variant.name for variant in settings.variants()]
    given["datasets"] = [data.name for data in settings.datasets]
    given["model"] = Path(settings.model).name if Path(settings.model).is_dir() else settings.model
    return given


def _comparison(
    settings: CompareSettings, out: Path, monitor: Monitor, draws: Draws, engine: Engine | None = None
) -> Comparison:
    shared = {data.name: settings.shared(data) for data in settings.datasets}
    return Comparison(
        settings.variants(),
        lambda draw: shared[draw.dataset],
        folder=out,
        monitor=monitor,
        workers=settings.workers,
        threads=settings.threads,
        redraw=draws.redraw,
        engine=engine,
    )


def _is_made_up(settings: CompareSettings) -> bool:
    """Tells whether all texts are the miniature's, whose harm is no one's."""
    return all(isinstance(data, MiniatureData) for data in settings.datasets)
