"""A run folder as an object: what it holds, and the verbs that continue it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune import pipeline
from sotune.api.keywords import plain, takes
from sotune.api.watching import printable, watched
from sotune.artifacts import RunFolder
from sotune.freshness import require_fresh
from sotune.monitoring import Monitor
from sotune.run_files import KEPT, METRICS, PROMISE, SCORES, SELECTION, WEIGHTS
from sotune.settings import (
    EvaluationSettings,
    ExportSettings,
    GateSettings,
    MethodSettings,
    RunConfig,
    SelectionSettings,
    TrainingSettings,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from sotune.evaluation.usage import JudgingPlan
    from sotune.pipeline import Explanation, HandedOn, Merged, RunSummary, ScoreSummary, Verification


class Run:
    """A run folder: its artefacts as attributes, its verbs as methods, each of which does first what is missing.

    Attributes:
        path: The folder.
        summary: What the last verb called here did, stage by stage, and the files it wrote; empty before the first.
    """

    def __init__(self, path: str | PathLike[str], summary: RunSummary | None = None) -> None:
        """Opens a run folder.

        Raises:
            ArtifactError: There is none at the path.
        """
        self._folder = RunFolder.open(Path(path))
        self.path = self._folder.path
        self.summary = summary or pipeline.RunSummary(folder=str(path), stages=(), files=())

    @property
    def settings(self) -> RunConfig:
        """All settings, as the last verb left them."""
        return pipeline.run_config(self._folder)

    @property
    def weights(self) -> pa.Table:
        """One line for each valid row: id, weight, costs, potentials, nearest references."""
        return WEIGHTS.read(self._fresh("weights"))

    @property
    def selection(self) -> pa.Table:
        """One line for each valid row by rank: kept or dropped, loss weight, the reason in words."""
        return SELECTION.read(self._fresh("selection"))

    @property
    def kept(self) -> pa.Table:
        """Your own rows that were kept, each with its weight for the loss; values of mixed types are JSON text."""
        return _as_table(KEPT.read(self._fresh("selection")))

    @property
    def promise(self) -> dict[str, Any]:
        """What sentinels measured at the cut, with bounds."""
        return PROMISE.read(self._fresh("selection"))

    @property
    def metrics(self) -> dict[str, Any]:
        """Model, ``base`` or ``tuned``, to its metrics by name, each with its interval and n."""
        return METRICS.read(self._fresh("evaluation"))

    @takes(SelectionSettings, GateSettings, changes=True)
    def select(self, *, monitor: Monitor | None = None, **settings: Any) -> Run:
        """Selects again from the solved weights; settings that are left out stay as they are."""
        return self._do("select", settings, monitor)

    @takes(MethodSettings, TrainingSettings, changes=True)
    def train(self, *, monitor: Monitor | None = None, **settings: Any) -> Run:
        """Fine-tunes the model on the kept rows with their weights."""
        return self._do("train", settings, monitor)

    @takes(EvaluationSettings, GateSettings, changes=True)
    def evaluate(self, *, show_text: bool | None = None, monitor: Monitor | None = None, **settings: Any) -> Run:
        """Asks the base model and the tuned one the evaluation prompts, and judges the answers."""
        return self._do("evaluate", _with_text(settings, show_text), monitor)

    @takes(GateSettings, changes=True)
    def report(self, *, show_text: bool = False, monitor: Monitor | None = None, **settings: Any) -> Run:
        """Writes report.html again, from the artefacts alone; texts, harmful ones too, only where asked for."""
        return self._do("report", {"show_text": show_text, **settings}, monitor)

    @takes(ExportSettings)
    def export(self, *, dry_run: bool = False, monitor: Monitor | None = None, **settings: Any) -> HandedOn:
        """Writes the kept rows in the shape of another tool, ``to``; see the settings.

        Raises:
            ArtifactError: The rows are not selected.
            DataError: The tool has a place for none of them.
        """
        made = ExportSettings.of(plain(settings))
        with self._folder.lock(), watched(monitor) as watch:
            return pipeline.export(self._folder, made, watch, write=not dry_run)

    def merge(self, *, out: str | PathLike[str] | None = None, monitor: Monitor | None = None) -> Merged:
        """Writes the model with the adapter merged into it, by default to ``merged`` in the run folder.

        Raises:
            ArtifactError: The run has no adapter.
        """
        with self._folder.lock(), watched(monitor) as watch:
            return pipeline.merge(self._folder, None if out is None else Path(out), watch)

    def explain(self, id: str, *, show_text: bool = False) -> Explanation:
        """Says why a row was kept or dropped: costs, nearest references, margin to the cut.

        Raises:
            DataError: There is no such row.
        """
        return pipeline.explain(self.path, [id], show_text=show_text)[0]

    def score(
        self,
        data: str | PathLike[str],
        *,
        out: str | PathLike[str] | None = None,
        where: Sequence[str] = (),
        monitor: Monitor | None = None,
    ) -> ScoreSummary:
        """Weighs rows that the run has never seen, without solving again; see `sotune.score`."""
        return score(self.path, data, out=out, where=where, monitor=monitor)

    def plan(self, verb: str, **settings: Any) -> RunSummary:
        """Tells which stages a verb would run with these settings changed, and touches nothing."""
        return pipeline.plan(verb, pipeline.run_config(self._folder, plain(settings)))

    def plan_judging(self, *, monitor: Monitor | None = None, **settings: Any) -> JudgingPlan:
        """Answers the evaluation prompts, and says what chat judges would be asked; asks them nothing."""
        with watched(monitor) as watch:
            config = pipeline.run_config(self._folder, plain(settings))
            return pipeline.plan_judging(config, watch, said=settings.keys())

    def _do(self, verb: str, settings: Mapping[str, Any], monitor: Monitor | None) -> Run:
        config = pipeline.run_config(self._folder, plain(settings))
        with watched(monitor) as watch:
            self.summary = pipeline.run(config, watch, until=verb, said=settings.keys())
        return self

    def _fresh(self, stage: str) -> RunFolder:
        """Returns the folder, if a stage's files belong to what the run holds now."""
        require_fresh(self._folder, stage)
        return self._folder

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._figures().items()]
        return printable("\n    ".join([f"Run({str(self.path)!r})", *lines]))

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._figures().items()
        )
        return f"<table><caption>{html.escape(f'Run {self.path}')}</caption>{cells}</table>"

    def _figures(self) -> dict[str, str]:
        return {
            f"{title}: {name}": value
            for title, figures in pipeline.figures(self._folder).items()
            for name, value in figures.items()
        }


def open_run(path: str | PathLike[str]) -> Run:
    """Opens the run folder of an earlier call or command.

    Raises:
        ArtifactError: There is none at the path.
    """
    return Run(path)


def explain(run: str | PathLike[str], ids: Sequence[str], *, show_text: bool = False) -> list[Explanation]:
    """Says why rows of a run were kept or dropped: costs, nearest references, margin to the cut.

    Args:
        run: A run, or the path of its folder.
        ids: Ids of the rows.
        show_text: Whether to hand out texts, which may be harmful.

    Raises:
        ArtifactError: The folder is no run whose rows are selected.
        DataError: There is no such row.
    """
    return pipeline.explain(Path(run), ids, show_text=show_text)


def verify(run: str | PathLike[str]) -> Verification:
    """Checks every file of a run, and of the runs in its folder, against what was written; changes nothing.

    Args:
        run: A run, or the path of its folder.

    Raises:
        ArtifactError: The folder is no run, or something in it leads out of it.
    """
    return pipeline.verify(Path(run))


def score(
    run: str | PathLike[str],
    data: str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    where: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> ScoreSummary:
    """Weighs rows that a run has never seen with its saved potentials, without solving again.

    Args:
        run: A run, or the path of its folder.
        data: The new rows: a file, a folder or pattern of files, or a Hub id.
        out: File to write: Parquet, or JSON lines if it ends in ``.jsonl``; ``scores.parquet`` in the run folder by
            default.
        where: COLUMN=VALUE filters on the new rows.
        monitor: Receives progress; by default, bars in a terminal or notebook.

    Raises:
        ArtifactError: The folder is no run, or its weights cannot be extended.
        DataError: The new rows cannot be read.
    """
    target = Path(run) / SCORES.name if out is None else Path(out)
    with watched(monitor) as watch:
        return pipeline.score(Path(run), str(data), out=target, where=tuple(where), monitor=watch)


def _with_text(settings: Mapping[str, Any], show_text: bool | None) -> dict[str, Any]:
    return dict(settings) if show_text is None else {**settings, "show_text": show_text}


def _as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as a table of all their columns; one whose values have no common type holds them as JSON."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(column for row in rows for column in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if value is None else json.dumps(value) for value in values])
    return pa.table(columns)
