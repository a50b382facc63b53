"""One cell of a comparison: one method on one draw of the data, from its rows to its figures.

Each cell leaves its result in a folder of its own, so that a comparison that was stopped goes on where it stood.
"""

from __future__ import annotations

import math
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sotune.artifacts import library_versions, read_json, sha256_json, write_json
from sotune.comparison.variants import BASE, Variant, change_method
from sotune.monitoring import Monitor

if TYPE_CHECKING:
    from torch import Tensor

    from sotune.evaluation import EvalPrompt, Judge, JudgeRole, Response
    from sotune.methods import WeighInputs
    from sotune.models import ModelSpec
    from sotune.records import Record, SetName
    from sotune.representations import Encoder, Pooling
    from sotune.training import TrainSettings


_RESULT = "result.json"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=-]+")


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
        kind: What each downstream row is, by id (``harmful``, ``refusal``, …). No method sees it but the oracles.
        safety_pairs: Harmful prompts with refusals, for methods that train on such; see `sotune.methods.Tools`.
    """

    dataset: str
    harmful_fraction: float
    seed: int
    downstream: Sequence[Record]
    safe_anchor: Sequence[Record]
    harmful_reference: Sequence[Record]
    prompts: Sequence[EvalPrompt]
    kind: Mapping[str, str]
    safety_pairs: Sequence[Record] = ()

    @property
    def name(self) -> str:
        """Names the draw's folder."""
        return self.name_of(self.dataset, self.harmful_fraction, self.seed)

    @staticmethod
    def name_of(dataset: str, harmful_fraction: float, seed: int) -> str:
        """Returns the name of a draw."""
        return f"{dataset}-p{harmful_fraction:g}-s{seed}"


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
        layer: Which layer represents the rows; ``auto`` is chosen on each draw, for all methods alike.
        pooling: How its states become a vector; likewise.
    """

    model: ModelSpec
    training: TrainSettings
    keep_fraction: float
    max_new_tokens: int
    batch_tokens: int = 8192
    eval_batch_size: int = 64
    example_prompts: int = 3
    layer: int | Literal["auto"] = -1
    pooling: Pooling | Literal["auto"] = "last"


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


class Bench:
    """Measures one variant of a method on draws, under a budget.

    Args:
        variant: What is measured.
        budget: What all variants share.
        judges: Role to judge.
        folder: Where cells and results go.
        monitor: Is told of progress.
    """

    def __init__(
        self,
        variant: Variant,
        budget: Budget,
        judges: Mapping[JudgeRole, Judge],
        *,
        folder: Path,
        monitor: Monitor,
    ) -> None:
        self._variant, self._judges = variant, judges
        self._budget = replace(
            budget,
            keep_fraction=budget.keep_fraction if variant.keep_fraction is None else variant.keep_fraction,
            layer=budget.layer if variant.layer is None else variant.layer,
        )
        self._folder, self._monitor = folder, monitor
        self._encoders: dict[str, Encoder] = {}

    def cell(self, draw: Draw) -> Cell:
        """Returns the result of the variant on a draw, measured now unless it lies there from an earlier call."""
        saved = self.saved(draw)
        if saved is not None:
            return saved
        folder, method = self._cell_folder(draw), self._variant.method
        cell = self._measure_base(draw, folder) if method == BASE else self._measure_method(draw, method, folder)
        cell = replace(cell, row={**cell.row, "method": self._variant.name})
        write_json(folder / _RESULT, {"key": self._key(draw), "cell": asdict(cell)})
        return cell

    def is_started(self, draw: Draw) -> bool:
        """Tells whether a result lies there, be it of other settings."""
        return (self._cell_folder(draw) / _RESULT).exists()

    def saved(self, draw: Draw) -> Cell | None:
        """Returns the result of an earlier call under the same settings, if it lies there."""
        if not self.is_started(draw):
            return None
        saved = read_json(self._cell_folder(draw) / _RESULT)
        return Cell(**saved["cell"]) if saved["key"] == self._key(draw) else None

    def _cell_folder(self, draw: Draw) -> Path:
        return cell_folder(self._folder, draw.name, self._variant.name)

    def _key(self, draw: Draw) -> str:
        from sotune.models import model_fingerprint

        sets = [
            [[r.id, [[m.role, m.content] for m in r.messages]] for r in records]
            for records in (draw.downstream, draw.safe_anchor, draw.harmful_reference, draw.safety_pairs)
        ]
        prompts = [[p.id, p.kind, [[m.role, m.content] for m in p.messages], p.reference] for p in draw.prompts]
        budget = {**asdict(self._budget), "model": model_fingerprint(self._budget.model)}
        judges = {role: judge.name for role, judge in self._judges.items()}
        versions = library_versions("sotune", "torch", "transformers", "peft")
        method = [self._variant.method, dict(self._variant.changes)]
        return sha256_json([method, draw.name, sets, prompts, budget, judges, versions])

    def _measure_base(self, draw: Draw, folder: Path) -> Cell:
        # Draws that differ in their rows alone ask the same prompts, and the base model answers them once.
        asked = sha256_json([[[m.role, m.content] for m in prompt.messages] for prompt in draw.prompts])
        answers = self._folder / "base" / asked[:16]
        return self._judged(draw, BASE, answers, adapter=None, seconds=0.0, peak_bytes=_peak_bytes())

    def _measure_method(self, draw: Draw, method: str, folder: Path) -> Cell:
        from sotune.methods import method_named, run_method

        _reset_peak()
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as work_dir:
            run = run_method(
                change_method(method_named(method), self._variant.changes),
                self._weigh_inputs(draw, Path(work_dir)),
                keep_fraction=self._budget.keep_fraction,
                output_dir=folder,
                on_step=lambda step: self._monitor.progress("training", step.step, step.n_steps),
            )
        seconds, peak = time.monotonic() - started, _peak_bytes()
        adapter, selection = run.training.adapter, run.selection
        cell = self._judged(draw, method, folder, adapter=adapter, seconds=seconds, peak_bytes=peak)
        n = len(draw.downstream)
        relative: dict[str, list[float]] = {"harmful": [], "other": []}
        for record, weight in zip(draw.downstream, selection.weights.tolist(), strict=True):
            relative["harmful" if draw.kind[record.id] == "harmful" else "other"].append(n * weight)
        return Cell(cell.row, _kept_by_kind(draw, selection.loss_weights), relative, cell.examples)

    def _weigh_inputs(self, draw: Draw, work_dir: Path) -> WeighInputs:
        """Returns all that a method may look at; the truth among it reaches only methods that say so."""
        from sotune.methods import InputRecords, Tools, WeighInputs

        tools = Tools(
            model=self._budget.model,
            training=self._training(draw),
            work_dir=work_dir,
            safety_pairs=draw.safety_pairs,
            judge=self._judges.get("coherence"),
            truth={id: kind == "harmful" for id, kind in draw.kind.items()},
        )
        records = InputRecords(draw.downstream, draw.safe_anchor, draw.harmful_reference)
        return WeighInputs(*self._representations(draw), seed=draw.seed, records=records, tools=tools)

    def _representations(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        from sotune.records import SET_NAMES
        from sotune.representations import RepresentationCache, encode_with_cache

        sets = dict(zip(SET_NAMES, (draw.downstream, draw.safe_anchor, draw.harmful_reference), strict=True))
        if draw.name not in self._encoders:
            self._encoders[draw.name] = self._choose_encoder(draw, sets)
        encoder = self._encoders[draw.name]

        def encode(records: Sequence[Record]) -> Tensor:
            # Each set is a plan of its own: its batches, and so its bytes, do not depend on which cells came before.
            cache = RepresentationCache(self._folder / "representations" / _digest(records))
            return encode_with_cache(encoder, list(records), cache).values

        return encode(draw.downstream), encode(draw.safe_anchor), encode(draw.harmful_reference)

    def _choose_encoder(self, draw: Draw, sets: Mapping[SetName, Sequence[Record]]) -> Encoder:
        """Chooses what represents the rows of a draw, for all methods alike, and records the choice."""
        from sotune.pipeline.choosing import choose_encoder
        from sotune.pipeline.encoding import model_readings
        from sotune.representations import RepresentationCache

        group = model_readings(
            self._budget.model,
            layer=self._budget.layer,
            pooling=self._budget.pooling,
            template=self._budget.training.template,
            max_length=self._budget.training.max_length,
            batch_tokens=self._budget.batch_tokens,
        )
        if len(group.members) == 1:
            return group.members[0]
        everything = [record for records in sets.values() for record in records]
        cache = RepresentationCache(self._folder / "representations" / _digest(everything))
        choice = choose_encoder(group, sets, cache)
        write_json(self._folder / "cells" / draw.name / "representations.json", choice.as_dict())
        return choice.encoder

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


def cell_folder(folder: Path, draw: str, variant: str) -> Path:
    """Returns where the cell of a variant on a draw lies."""
    return folder / "cells" / draw / (_UNSAFE.sub("-", variant).lstrip(".") or "-")


def _digest(records: Sequence[Record]) -> str:
    return sha256_json([[[m.role, m.content] for m in record.messages] for record in records])[:16]


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
