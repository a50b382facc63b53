"""Methods side by side: the same data, model, number of optimizer steps, prompts and judges for all of them.

Each cell (one method on one draw of the data) leaves its result in a folder of its own, so that a comparison that was
stopped goes on where it stood.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.artifacts import library_versions, read_json, sha256_json, write_json
from sotune.errors import ConfigError
from sotune.pipeline import Monitor

if TYPE_CHECKING:
    from torch import Tensor

    from sotune.evaluation import EvalPrompt, Judge, JudgeRole, Response
    from sotune.models import ModelSpec
    from sotune.records import Record
    from sotune.training import TrainSettings

BASE = "base"
"""The model before any fine-tuning; not a method, but measured beside them."""


@dataclass(frozen=True)
class Draw:
    """One draw of a contaminated data set with its references and its evaluation prompts.

    Attributes:
        dataset: Its name.
        harmful_fraction: Share of harmful rows.
        seed: What it was drawn with; also the seed of training and of methods that draw.
        downstream: The rows to fine-tune on.
        safe_anchor: Trusted rows.
        harmful_reference: Harmful rows.
        prompts: Evaluation prompts; none of them occurs in the three sets.
        kind: What each downstream row is, by id (``harmful``, ``refusal``, …). No method sees it.
    """

    dataset: str
    harmful_fraction: float
    seed: int
    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    prompts: Sequence[EvalPrompt]
    kind: Mapping[str, str]

    @property
    def name(self) -> str:
        """Names the draw's folder."""
        return f"{self.dataset}-p{self.harmful_fraction:g}-s{self.seed}"


@dataclass(frozen=True)
class Budget:
    """What all methods share.

    Attributes:
        model: The base model.
        training: Settings of training; the number of steps is that of all rows, whatever a method keeps.
        keep_fraction: K as a share of the rows, for methods that drop any.
        max_new_tokens: The most tokens of an answer.
        batch_tokens: Tokens of an encoding batch.
        eval_batch_size: Prompts answered together.
        example_prompts: How many answers of each kind of prompt are kept for the report.
    """

    model: ModelSpec
    training: TrainSettings
    keep_fraction: float
    max_new_tokens: int
    batch_tokens: int = 8192
    eval_batch_size: int = 64
    example_prompts: int = 3


@dataclass(frozen=True)
class Cell:
    """The result of one method on one draw.

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


class Comparison:
    """Runs methods on draws under one budget.

    Args:
        methods: Names of methods, ``base`` among them or not.
        budget: What they share.
        judges: Role to judge.
        folder: Where cells and results go.
        monitor: Is told of progress.

    Raises:
        ConfigError: A method is unknown.
    """

    def __init__(
        self,
        methods: Sequence[str],
        budget: Budget,
        judges: Mapping[JudgeRole, Judge],
        *,
        folder: Path,
        monitor: Monitor,
    ) -> None:
        from sotune.methods import METHODS

        unknown = sorted(set(methods) - set(METHODS) - {BASE})
        if unknown:
            raise ConfigError(f"unknown methods {unknown}; known: {', '.join([BASE, *METHODS])}")
        self._methods, self._budget, self._judges = methods, budget, judges
        self._folder, self._monitor = folder, monitor

    def run(self, draws: Iterable[Draw]) -> list[tuple[Draw, dict[str, Cell]]]:
        """Does every cell that is not done; returns all, by draw and method."""
        results = []
        for draw in draws:
            cells = {}
            for method in self._methods:
                self._monitor.stage(f"{draw.name}: {method}", "running")
                cells[method] = self._cell(draw, method)
            results.append((draw, cells))
        return results

    def _cell(self, draw: Draw, method: str) -> Cell:
        folder = self._folder / "cells" / draw.name / method
        key = self._key(draw, method)
        result = folder / "result.json"
        if result.exists():
            saved = read_json(result)
            if saved["key"] == key:
                return Cell(**saved["cell"])
        cell = self._measure_base(draw, folder) if method == BASE else self._measure_method(draw, method, folder)
        write_json(result, {"key": key, "cell": asdict(cell)})
        return cell

    def _key(self, draw: Draw, method: str) -> str:
        from sotune.models import model_fingerprint

        sets = [
            [[r.id, [[m.role, m.content] for m in r.messages]] for r in records]
            for records in (draw.downstream, draw.safe_anchor, draw.harmful_reference)
        ]
        prompts = [[p.id, p.kind, [[m.role, m.content] for m in p.messages], p.reference] for p in draw.prompts]
        budget = {**asdict(self._budget), "model": model_fingerprint(self._budget.model)}
        versions = library_versions("sotune", "torch", "transformers", "peft")
        return sha256_json([method, draw.name, sets, prompts, budget, versions])

    def _measure_base(self, draw: Draw, folder: Path) -> Cell:
        return self._judged(draw, BASE, folder, adapter=None, seconds=0.0, peak_bytes=_peak_bytes())

    def _measure_method(self, draw: Draw, method: str, folder: Path) -> Cell:
        from sotune.training import fine_tune

        _reset_peak()
        started = time.monotonic()
        weights, loss_weights = self._select(draw, method)
        kept = [record for record in draw.downstream if record.id in loss_weights]
        result = fine_tune(
            kept,
            loss_weights,
            model=self._budget.model,
            settings=self._training(draw),
            output_dir=folder,
            on_step=lambda step: self._monitor.progress("training", step.step, step.n_steps),
        )
        seconds, peak = time.monotonic() - started, _peak_bytes()
        cell = self._judged(draw, method, folder, adapter=result.adapter, seconds=seconds, peak_bytes=peak)
        n = len(draw.downstream)
        relative: dict[str, list[float]] = {"harmful": [], "other": []}
        for record, weight in zip(draw.downstream, weights.tolist(), strict=True):
            relative["harmful" if draw.kind[record.id] == "harmful" else "other"].append(n * weight)
        return Cell(cell.row, _kept_by_kind(draw, loss_weights), relative, cell.examples)

    def _select(self, draw: Draw, method: str) -> tuple[Tensor, dict[str, float]]:
        """Returns the weights of all rows, and the loss weight of each kept one by id."""
        from sotune.methods import METHODS, InputRecords, WeighInputs
        from sotune.selection import keep_count, select_rows

        chosen = METHODS[method]
        downstream, safe_anchor, harmful_reference = self._representations(draw)
        records = InputRecords(draw.downstream, draw.safe_anchor, draw.harmful_reference)
        weights = chosen.weigh(WeighInputs(downstream, safe_anchor, harmful_reference, draw.seed, records))
        n = len(draw.downstream)
        k = n if chosen.keeps_all else keep_count(n, keep_fraction=self._budget.keep_fraction)
        ids = [record.id for record in draw.downstream]
        rows = select_rows(ids, weights.tolist(), k=k, loss_weight_rule=chosen.loss_weight_rule)
        return weights, {row.id: row.loss_weight for row in rows if row.loss_weight is not None}

    def _representations(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        from sotune.representations import CausalLMEncoder, RepresentationCache, encode_with_cache

        training = self._budget.training
        encoder = CausalLMEncoder(
            self._budget.model,
            layer=-1,
            template=training.template,
            max_length=training.max_length,
            batch_tokens=self._budget.batch_tokens,
        )
        cache = RepresentationCache(self._folder / "representations")
        sets = (draw.downstream, draw.safe_anchor, draw.harmful_reference)
        values = encode_with_cache(encoder, [record for records in sets for record in records], cache).values
        first, second = len(draw.downstream), len(draw.downstream) + len(draw.safe_anchor)
        return values[:first], values[first:second], values[second:]

    def _training(self, draw: Draw) -> TrainSettings:
        """Returns settings with the steps that all rows would take: a shorter set must not be trained less."""
        training = self._budget.training
        batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
        steps = math.ceil(len(draw.downstream) / batch) * training.num_train_epochs
        return replace(training, max_steps=training.max_steps or math.ceil(steps), seed=draw.seed)

    def _judged(
        self, draw: Draw, method: str, folder: Path, *, adapter: Path | None, seconds: float, peak_bytes: int
    ) -> Cell:
        from sotune.evaluation import flatten_metrics
        from sotune.pipeline.measuring import Asking, ask_model, judge_answers

        responses = ask_model(
            draw.prompts,
            spec=self._budget.model,
            adapter=adapter,
            asking=Asking(
                self._budget.training.template, self._budget.max_new_tokens, self._budget.eval_batch_size, draw.seed
            ),
            parts=folder / "responses",
            on_progress=lambda done, total: self._monitor.progress("asking", done, total),
        )
        result = judge_answers(draw.prompts, responses, self._judges, seed=draw.seed)
        row = {
            "method": method,
            "dataset": draw.dataset,
            "harmful_fraction": draw.harmful_fraction,
            "seed": draw.seed,
            **flatten_metrics(result.metrics),
            "n_prompts": len(draw.prompts),
            "seconds": seconds,
            "peak_bytes": peak_bytes,
        }
        return Cell(row, examples=self._examples(draw, responses))

    def _examples(self, draw: Draw, responses: Sequence[Response]) -> dict[str, str]:
        answers = {response.id: response.text for response in responses}
        chosen: dict[str, str] = {}
        for kind in dict.fromkeys(prompt.kind for prompt in draw.prompts):
            of_kind = [prompt.id for prompt in draw.prompts if prompt.kind == kind]
            chosen |= {id: answers[id] for id in of_kind[: self._budget.example_prompts]}
        return chosen


def write_results(
    folder: Path,
    results: Sequence[tuple[Draw, Mapping[str, Cell]]],
    *,
    settings: Mapping[str, Any],
    safe_to_show: bool,
) -> None:
    """Writes compare.json (one line for each cell) and details.json (what the report draws besides).

    Raises:
        SotuneError: A figure is missing.
    """
    write_json(folder / "compare.json", [cell.row for _, cells in results for cell in cells.values()])
    draw, cells = results[0]
    kept = {
        method: {
            f"{kind}_rows_kept": statistics.fmean(cells[method].kept[kind] for _, cells in results)
            for kind in ("refusal", "harmful")
            if kind in cells[method].kept
        }
        for method in cells
        if method != BASE
    }
    prompts = {prompt.id: prompt for prompt in draw.prompts}
    first = next(iter(cells.values()))
    examples = [
        {
            "prompt": prompts[id].messages[-1].content,
            "kind": prompts[id].kind,
            **{method: cell.examples[id] for method, cell in cells.items()},
        }
        for id in first.examples
    ]
    details: dict[str, Any] = {
        "kept": kept,
        "examples": examples,
        "settings": dict(settings),
        "safe_to_show": safe_to_show,
    }
    if "sot" in cells:
        details["weights"] = {**cells["sot"].relative_weights, "seed": draw.seed}
    write_json(folder / "details.json", details)


def summarize(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the mean of some figures over seeds and data sets, by method."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    return {
        method: {name: statistics.fmean(row[name] for row in some) for name in names}
        for method, some in by_method.items()
    }


def _kept_by_kind(draw: Draw, kept: Mapping[str, float]) -> dict[str, float]:
    totals: dict[str, list[bool]] = {}
    for record in draw.downstream:
        totals.setdefault(draw.kind[record.id], []).append(record.id in kept)
    return {kind: statistics.fmean(flags) for kind, flags in totals.items()}


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
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
