"""One cell of a comparison: the run of one variant on one draw, and what is read back from its artefacts.

A cell is a run folder like any other. What it found lies beside it in ``result.json``, so that a comparison that was
stopped goes on where it stood.
"""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sotune.artifacts import Json, RunFolder, library_versions, sha256_file, sha256_json
from sotune.comparison.draw import KIND, DrawFiles
from sotune.comparison.variant import BASE, Variant
from sotune.evaluation.prompts import load_prompts
from sotune.methods import settle
from sotune.models import model_fingerprint
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.model_comparison import compare_models
from sotune.pipeline.record_sets import kinds_of
from sotune.pipeline.verbs import STAGES, run
from sotune.run_files import EVALUATION, METRICS, PROMISE, RESPONSES, TRAINING, WEIGHTS
from sotune.settings import (
    WATCHED_ONLY,
    EngineSettings,
    ModelEvaluation,
    RepresentationSettings,
    RunConfig,
    make_config,
    override,
)
from sotune.training.progress import count_steps

_RESULT = Json("result.json", verb="compare")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=-]+")
_EXAMPLES = 3  # answers of each kind of prompt that are kept for the report


@dataclass(frozen=True)
class Cell:
    """The result of one variant on one draw.

    Attributes:
        row: Its line in compare.json.
        kept: Share of the rows that were kept, by what they are.
        relative_weights: ``n·w`` of harmful rows and of others, for methods that weigh.
        examples: Prompt id to answer.
    """

    row: dict[str, Any]
    kept: dict[str, float] = field(default_factory=dict)
    relative_weights: dict[str, list[float]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CellPlan:
    """What one cell is.

    Attributes:
        variant: What is measured.
        draw: On what.
        shared: Settings of a run that all cells share.
        folder: Of the comparison.
        threads: CPU threads.
    """

    variant: Variant
    draw: DrawFiles
    shared: Mapping[str, Any]
    folder: Path
    threads: int

    @property
    def out(self) -> Path:
        """The cell's folder."""
        return cell_folder(self.folder, self.draw.name, self.variant.name)

    @functools.cached_property
    def config(self) -> RunConfig:
        """The settings of the cell's run.

        Its optimizer steps are those that all rows would take, whatever is kept: a shorter set is not trained less.

        Raises:
            ConfigError: A setting is wrong.
        """
        method = self.variant.found_method()
        brought = {} if method is None else {**method.changes, "method": self.variant.method}
        given = {
            "min_reference_rows": 1,
            "max_quarantine_fraction": 0.0,
            "hold": "none",  # a method is compared as it is
            **override(self.shared, {**brought, **self.variant.changes}),
            **self.draw.paths,
            "truth_column": KIND,
            "seed": self.draw.seed,
            "threads": self.threads,
            "out": str(self.out),
            "answers_dir": str(self.folder / "answers"),
            "diagnostics": False,
        }
        config = make_config(given, origin=self.variant.name)
        # Each plan of batches has a cache of its own, so that bytes do not depend on which cells came before.
        plan = [self.draw.row_digest, config.part(RepresentationSettings).model_dump(mode="json")]
        steps = count_steps(self.draw.n, config)
        cache = self.folder / "representations" / sha256_json(plan)[:16]
        return make_config({**given, "max_steps": steps, "cache_dir": str(cache)}, origin=self.variant.name)

    def key(self) -> str:
        """Returns what the result depends on."""
        config = self.config
        nowhere = (*WATCHED_ONLY, *EngineSettings.model_fields)  # no result depends on these
        elsewhere = {"out", "cache_dir", "answers_dir", *nowhere, *self.draw.paths}  # files count by their content
        settings = settle(config).model_dump(mode="json", exclude=elsewhere)
        model = model_fingerprint(base_model(config))
        stages = {stage.name: stage.version for stage in STAGES}
        versions = [library_versions("sotune", "torch", "transformers", "peft"), stages]
        return sha256_json([self.variant.method, settings, dict(self.draw.digests), model, versions])

    def saved(self) -> Cell | None:
        """Returns the result of an earlier call under the same settings, if it lies there."""
        saved = _RESULT.read_if_there(self.out)
        if not saved or saved["key"] != self.key() or saved.get("evidence") != self._evidence():
            return None  # the second, where somebody went on with the cell's run under other settings
        return Cell(**saved["cell"])

    def measure(self, monitor: Monitor) -> Cell:
        """Does the cell's run and returns what it found.

        Raises:
            SotuneError: The run failed.
        """
        meter = _Meter(monitor)
        cell = self._base(meter) if self.variant.method == BASE else self._run(meter)
        _RESULT.write(self.out, {"key": self.key(), "evidence": self._evidence(), "cell": asdict(cell)})
        return cell

    def _evidence(self) -> dict[str, str]:
        """Returns the digest of each file that the result was read from, of those that the folder holds."""
        names = (METRICS.name, PROMISE.name, EVALUATION.name)
        return {name: sha256_file(self.out / name) for name in names if (self.out / name).exists()}

    def _base(self, meter: _Meter) -> Cell:
        config = self.config
        names = ModelEvaluation.model_fields.keys() & RunConfig.model_fields.keys() & config.model_fields_set
        compare_models(ModelEvaluation(**{name: getattr(config, name) for name in names}), meter)
        found = EVALUATION.read(self.out)
        examples = self._examples(f"{BASE}.{RESPONSES.name}")
        return Cell(self._row(found["metrics"][BASE], meter, seconds=0.0), examples=examples)

    def _run(self, meter: _Meter) -> Cell:
        run(self.config, meter)
        metrics, promise = METRICS.read(self.out), PROMISE.read(self.out)
        weights, kinds = WEIGHTS.columns_of(self.out, "id", "weight"), self._kinds()
        relative: dict[str, list[float]] = {"harmful": [], "other": []}
        for id, weight in zip(weights["id"], weights["weight"], strict=True):
            relative["harmful" if kinds[id] == "harmful" else "other"].append(self.draw.n * weight)
        kept = {kind: counts["kept"] / counts["n"] for kind, counts in promise["kinds"].items()}
        row = self._row(metrics["tuned"], meter, seconds=meter.seconds)
        row["extra_tokens"] = (TRAINING.read(self.out).get("figures") or {}).get("extra_tokens", 0.0)
        return Cell(row, kept, relative, self._examples(RESPONSES.name))

    def _kinds(self) -> dict[str, str]:
        return kinds_of(self.config, RunFolder.open(self.out))

    def _row(self, metrics: Mapping[str, Any], meter: _Meter, *, seconds: float) -> dict[str, Any]:
        ends = {"": "value", "_low": "low", "_high": "high"}
        figures = {f"{name}{end}": one[key] for name, one in metrics.items() for end, key in ends.items()}
        return {
            "method": self.variant.name,
            **self.variant.described(),
            "dataset": self.draw.dataset,
            "harmful_fraction": self.draw.harmful_fraction,
            "seed": self.draw.seed,
            **figures,
            "seconds": seconds,
            "peak_bytes": meter.peak_bytes,
        }

    def _examples(self, name: str) -> dict[str, str]:
        answers = RESPONSES.named(name).columns_of(self.out, "id", "text")
        text = dict(zip(answers["id"], answers["text"], strict=True))
        chosen: dict[str, list[str]] = {}
        for prompt in load_prompts(Path(self.draw.paths["eval_prompts"])):
            chosen.setdefault(prompt.kind, []).append(prompt.id)
        return {id: text[id] for ids in chosen.values() for id in ids[:_EXAMPLES]}


def cell_folder(folder: Path, draw: str, variant: str) -> Path:
    """Returns where the cell of a variant on a draw lies."""
    return folder / "cells" / draw / (_UNSAFE.sub("-", variant).lstrip(".") or "-")


class _Meter:
    """Passes on what a run tells, and notes what it took until the evaluation, which is alike for all methods."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._started = time.monotonic()
        self.seconds, self._peak = 0.0, 0
        _reset_peak()

    @property
    def peak_bytes(self) -> int:
        """Peak resident memory of the process until the evaluation, or until now where there was none."""
        return self._peak or _peak_bytes()

    def stage(self, name: str, status: str) -> None:
        """Notes time and memory when the evaluation begins."""
        if name == "evaluate":
            self.seconds, self._peak = time.monotonic() - self._started, _peak_bytes()

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Passes progress on."""
        self._monitor.progress(label, done, total)

    def warn(self, message: str) -> None:
        """Says nothing: the cell's artefacts hold it."""


def _reset_peak() -> None:
    """Makes the kernel count the process's peak memory from now on, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak is then that of the whole process so far


def _peak_bytes() -> int:
    """Returns the peak resident memory of this process since the last reset, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
