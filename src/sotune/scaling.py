"""What a run takes, from measured rates: time, memory and disk of each stage, on one device or on many.

A stage costs floating-point operations, or passes that wait for memory or for kernels to be launched. Their rates are
those of `experiments/gpu/results` and of docs/performance.md, or are measured on the machine at hand; what is assumed
says so. Figures are right within a factor of two: enough to know whether a run fits, and whether it takes minutes or
days.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

GIB = 2**30

ENCODING_EFFICIENCY = 0.55
"""Share of a device's own matrix product that extraction reaches: 28,730 tokens a second with 7.5 billion parameters at
810 Tflop/s, 10 % of them padding (H100)."""
TRAINING_EFFICIENCY = 0.57
"""The same of training: 14,600 tokens a second beside the launches below, 4 flops a parameter and token (H100)."""
_LAUNCH_SECONDS = 0.125 / 32
"""Of one layer's kernels in a training step: a step of 32 layers takes no less than 0.125 s, however short (H100)."""
_FORWARD_SHARE = 1 / 3  # of a step's launches that one pass forward takes: assumed
_TOKENS_READ_PER_SECOND = 345_000.0
"""Rendered and tokenized by one process: 97,684 tokens in 0.283 s."""
_ACTIVATION_BYTES = 47.0
"""Kept for the backward pass, for each token, layer and unit of width: 11.7 GiB at 2,048 tokens, 32 layers, 4,096."""
_ENCODING_BYTES = 29.0
"""Held in a pass forward, for each token and unit of width: 0.9 GiB at 8,192 tokens and 4,096."""
_LOGITS_BYTES = 0.5 * GIB  # the output layer's chunks and their gradient, at most: assumed
_PROCESS_BYTES = 0.6 * GIB  # of a process with its libraries loaded
_HELD = 1.2  # times as long with a hold, whose answers every fourth step looks at: measured with SmolLM2 on a CPU
_ASKED_AT_ONCE = 64  # prompts of rows, before training
_INDEX_BYTES = 400.0
"""Of RAM for each row, however long: ids, keys, numbers and places. 150,000 rows more took 57 MiB more in encoding."""
_PARTS_BYTES = 0.1 * GIB  # of the rows that are read, encoded and written together
_STRETCH_SECONDS = {"gpu": 0.85, "cpu": 3.8}  # the adaptive cost's fit, from at most 10,000 rows
_SOLVER_FLOPS = {"gpu": 18.6e12, "cpu_thread": 15e9}
"""50,000 × 5,000 at d = 4,096 in 0.110 s (H100); 1,000,000 × 5,050 at d = 384, two passes, in 172 s by two threads."""
_SHARED_WELL = 0.95  # of N devices, on shards or micro-batches of unlike length: assumed, not measured
_JUDGE_SECONDS = 2.0  # of one question: assumed


@dataclass(frozen=True)
class Device:
    """What a run computes on.

    Attributes:
        name: What people call it.
        flops: Of a large matrix product in the models' number type, a second.
        memory: Of the device, bytes; of the whole machine for a CPU.
        bandwidth: Bytes read from that memory a second.
        threads: CPU threads, of which the solver makes use where there is no GPU; 0 for a GPU.
        source: Where the rates are from.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    threads: int = 0
    source: str = "vendor's data sheet, dense bfloat16"

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.threads == 0

    @property
    def launch_seconds(self) -> float:
        """Of one layer's kernels in a training step; a CPU launches at once."""
        return _LAUNCH_SECONDS if self.is_gpu else 0.0


DEVICES = {
    device.name: device
    for device in (
        Device("h100", 810e12, 79 * GIB, 3.0e12, source="measured: experiments/gpu/results"),
        Device("h200", 810e12, 139 * GIB, 4.8e12, source="as the H100, memory by the data sheet"),
        Device("a100", 312e12, 80 * GIB, 2.0e12),
        Device("l40s", 362e12, 45 * GIB, 0.86e12),
        Device("rtx4090", 165e12, 24 * GIB, 1.0e12),
        Device("rtx3090", 71e12, 24 * GIB, 0.94e12),
    )
}


@dataclass(frozen=True)
class ModelShape:
    """A causal LM in numbers.

    Attributes:
        n_parameters: All of them.
        n_embedding: Of these, in embeddings and output layer, which extraction does not multiply by.
        n_layers: Its layers.
        width: Of its states.
        number_bytes: Bytes of a number: 2 for bfloat16, 4 for float32.
        n_trained: Parameters of the adapter.
    """

    n_parameters: float
    n_embedding: float
    n_layers: int
    width: int
    number_bytes: int = 2
    n_trained: float = 0.0

    @property
    def body(self) -> float:
        """Parameters of its layers."""
        return self.n_parameters - self.n_embedding

    @property
    def weight_bytes(self) -> float:
        """Of the weights in memory."""
        return self.n_parameters * self.number_bytes


LLAMA_8B = ModelShape(8.03e9, 2 * 128_256 * 4_096, 32, 4_096, n_trained=6.8e6)


@dataclass(frozen=True)
class Workload:
    """A run in numbers.

    Attributes:
        n_rows: Downstream rows.
        n_references: Rows of all references together.
        mean_tokens: Of a row as the model reads it.
        longest: The longest row's tokens.
        row_bytes: Of a row's text.
        n_readings: Readings that `layer: auto` and `pooling: auto` choose among; 1 where they are given.
        n_sampled: Downstream rows that all of them are computed for.
        dimension: Of a representation; 0: the model's width.
        batch_tokens: Of an extraction batch.
        kept: Share of the rows that is trained on.
        epochs: Passes over them.
        micro_batch: Rows of a micro-batch.
        accumulation: Micro-batches of an optimizer step.
        n_prompts: Evaluation prompts, each put to two models.
        new_tokens: Of an answer.
        eval_batch: Prompts of a batch.
        n_judged: Questions to a chat judge for each answer.
        judges_at_once: Questions that are asked at once.
        judge_tokens: Of one question and of its reply.
        judge_prices: Of a million of each; ``None``: not known.
        adaptive: Whether the cost is fitted.
        packed: Whether the rows of a micro-batch stand one behind the other, without padding.
        held: Whether a hold looks at some answers in each step.
        n_asked: Rows whose prompts the model is asked before training.
        asked_tokens: Of each of those answers.
        training_bytes: Of a device in training, where they are counted; 0: reckoned from the model's shape.
        encoder: The model that represents the rows, where it is not the one that is tuned.
    """

    n_rows: int
    n_references: int = 5_050
    mean_tokens: float = 190.0
    longest: int = 2_048
    row_bytes: float = 700.0
    n_readings: int = 12
    n_sampled: int = 2_000
    dimension: int = 0
    batch_tokens: int = 8_192
    kept: float = 0.8
    epochs: float = 2.0
    micro_batch: int = 4
    accumulation: int = 1
    n_prompts: int = 1_000
    new_tokens: int = 128
    eval_batch: int = 32
    n_judged: int = 0
    judges_at_once: int = 16
    judge_tokens: tuple[float, float] = (600.0, 100.0)
    judge_prices: tuple[float, float] | None = None
    adaptive: bool = True
    packed: bool = False
    held: bool = False
    n_asked: int = 0
    asked_tokens: int = 12
    training_bytes: float = 0.0
    encoder: ModelShape | None = None


@dataclass(frozen=True)
class StageNeeds:
    """What one stage takes.

    Attributes:
        stage: Its title.
        seconds: Wall time.
        device_bytes: At most, on each GPU.
        ram_bytes: At most, in main; without a GPU, models and all.
        disk_bytes: What it leaves.
    """

    stage: str
    seconds: float
    device_bytes: float = 0.0
    ram_bytes: float = 0.0
    disk_bytes: float = 0.0


@dataclass(frozen=True)
class Needs:
    """What a run takes.

    Attributes:
        stages: Each in turn.
        judge_cost: In the currency of the prices; ``None`` where they are not known.
        n_questions: To chat judges.
        judge_seconds: What their answers take, a part of the evaluation's time.
        device: What it was reckoned for.
        n_devices: How many of them.
    """

    stages: tuple[StageNeeds, ...]
    judge_cost: float | None
    n_questions: int
    device: Device
    n_devices: int
    warnings: tuple[str, ...] = field(default=())
    judge_seconds: float = 0.0

    @property
    def generation_seconds(self) -> float:
        """What the answers to evaluation prompts take."""
        (evaluation,) = (stage.seconds for stage in self.stages if stage.stage == "evaluate")
        return evaluation - self.judge_seconds

    @property
    def seconds(self) -> float:
        """Wall time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def device_bytes(self) -> float:
        """The most that a GPU holds at once."""
        return max(stage.device_bytes for stage in self.stages)

    @property
    def ram_bytes(self) -> float:
        """The most that main holds at once."""
        return max(stage.ram_bytes for stage in self.stages)

    @property
    def disk_bytes(self) -> float:
        """What all stages leave."""
        return sum(stage.disk_bytes for stage in self.stages)


def estimate_needs(work: Workload, model: ModelShape, device: Device, *, n_devices: int = 1) -> Needs:
    """Reckons what a run takes.

    Args:
        work: The run.
        model: The model that is tuned, and represents the rows unless an encoder does.
        device: What it runs on.
        n_devices: How many work together; the solver and the judges are main's alone.
    """
    faster = n_devices * (_SHARED_WELL if n_devices > 1 else 1.0)
    stages: tuple[StageNeeds, ...] = (
        _read(work),
        _encode(work, work.encoder or model, device, faster),
        _weigh(work, work.encoder or model, device),
        _select(work),
        _train(work, model, device, faster),
        _evaluate(work, model, device, faster),
    )
    if not device.is_gpu:
        stages = tuple(replace(one, device_bytes=0.0, ram_bytes=one.ram_bytes + one.device_bytes) for one in stages)
    n_questions = 2 * work.n_prompts * work.n_judged
    cost = None
    if work.judge_prices is not None:
        cost = n_questions * sum(n * p for n, p in zip(work.judge_tokens, work.judge_prices, strict=True)) / 1e6
    needs = Needs(stages, cost, n_questions, device, n_devices, judge_seconds=_judge_seconds(work))
    return replace(needs, warnings=tuple(_warnings(needs)))


def _read(work: Workload) -> StageNeeds:
    rows = work.n_rows + work.n_references
    seconds = rows * work.mean_tokens / _TOKENS_READ_PER_SECOND
    return StageNeeds("read", seconds, ram_bytes=_records(work), disk_bytes=1.5 * rows * work.row_bytes)


def _encode(work: Workload, model: ModelShape, device: Device, faster: float) -> StageNeeds:
    rows = work.n_rows + work.n_references
    again = min(work.n_sampled, work.n_rows) + work.n_references if work.n_readings > 1 else 0
    tokens = (rows + again) * work.mean_tokens
    seconds = 2 * model.body * tokens / (device.flops * ENCODING_EFFICIENCY) / faster
    # Every process renders and tokenizes all rows.
    seconds += rows * work.mean_tokens / _TOKENS_READ_PER_SECOND
    stored = rows + again * work.n_readings
    return StageNeeds(
        "encode",
        seconds,
        device_bytes=model.body * model.number_bytes
        + model.n_embedding / 2 * model.number_bytes
        + work.batch_tokens * model.width * _ENCODING_BYTES * model.number_bytes / 2,
        ram_bytes=_records(work),  # vectors are in mapped files
        disk_bytes=stored * _dimension(work, model) * 4,
    )


def _weigh(work: Workload, model: ModelShape, device: Device) -> StageNeeds:
    kind = "gpu" if device.is_gpu else "cpu"
    on_gpu, on_cpu = _SOLVER_FLOPS["gpu"] * device.flops / 810e12, _SOLVER_FLOPS["cpu_thread"] * device.threads
    rate = on_gpu if device.is_gpu else on_cpu
    kernel = work.n_rows * work.n_references * 4
    passes = 1 if kernel < 8 * GIB else 2
    seconds = passes * 2 * work.n_rows * work.n_references * _dimension(work, model) / rate
    fitted = _STRETCH_SECONDS[kind] * min(1.0, work.n_rows / 5_000) if work.adaptive else 0.0
    held = min(kernel, 8 * GIB) + min(work.n_rows, 10_000) * _dimension(work, model) * 16
    return StageNeeds(
        "weigh",
        seconds + fitted,
        device_bytes=held if device.is_gpu else 0.0,
        ram_bytes=_records(work) + (0 if device.is_gpu else held),
        disk_bytes=work.n_rows * 120,
    )


def _select(work: Workload) -> StageNeeds:
    return StageNeeds(
        "select",
        work.n_rows * 2e-5,
        ram_bytes=_records(work),
        disk_bytes=work.n_rows * (150 + work.kept * work.row_bytes),
    )


def _train(work: Workload, model: ModelShape, device: Device, faster: float) -> StageNeeds:
    rows = work.n_rows * work.kept * work.epochs
    padded = 1.0 if work.micro_batch == 1 or work.packed else 1.7  # measured with 4 rows of log-normal length
    tokens = work.micro_batch * work.mean_tokens * padded
    computed = 4 * model.n_parameters * tokens / (device.flops * TRAINING_EFFICIENCY)
    each = math.hypot(device.launch_seconds * model.n_layers, computed)
    micro_batches = math.ceil(rows / work.micro_batch)
    asked = _Asked(work.n_asked, work.asked_tokens, _ASKED_AT_ONCE)
    longest = min(work.longest, 4 * work.mean_tokens) if work.micro_batch > 1 else work.longest
    return StageNeeds(
        "train",
        (micro_batches * each * (_HELD if work.held else 1.0) + _answering(work, model, device, asked)) / faster,
        device_bytes=work.training_bytes or training_bytes(model, tokens=work.micro_batch * longest),
        ram_bytes=_records(work) + work.n_rows * work.kept * (500 + 5 * work.mean_tokens),
        disk_bytes=model.n_trained * 4,
    )


def training_bytes(model: ModelShape, *, tokens: float) -> float:
    """Returns the memory of training an adapter with micro-batches of so many tokens, padding included."""
    activations = tokens * model.n_layers * model.width * _ACTIVATION_BYTES * model.number_bytes / 2
    states = model.n_trained * (4 + 4 + 8)  # the adapter, its gradient, and two moments, in float32
    logits = min(_LOGITS_BYTES, tokens * 12 * model.n_embedding / model.width)
    return model.weight_bytes + states + activations + logits


class _Asked(NamedTuple):
    """How many prompts are answered, by how many tokens each, and how many at once."""

    n: int
    new_tokens: int
    at_once: int


def _answering(work: Workload, model: ModelShape, device: Device, asked: _Asked) -> float:
    """Returns the seconds that answers take."""
    steps = math.ceil(asked.n / asked.at_once) * asked.new_tokens
    step = max(device.launch_seconds * model.n_layers * _FORWARD_SHARE, model.weight_bytes / device.bandwidth)
    prefill = asked.n * work.mean_tokens * 2 * model.n_parameters / (device.flops * ENCODING_EFFICIENCY)
    return steps * step + prefill + asked.n * asked.new_tokens * 2 * model.n_parameters / device.flops


def _evaluate(work: Workload, model: ModelShape, device: Device, faster: float) -> StageNeeds:
    asked = _Asked(2 * work.n_prompts, work.new_tokens, work.eval_batch)
    cache = work.eval_batch * (work.mean_tokens + work.new_tokens) * model.n_layers * model.width * 4
    return StageNeeds(
        "evaluate",
        _answering(work, model, device, asked) / faster + _judge_seconds(work),
        device_bytes=model.weight_bytes + cache * model.number_bytes / 2,
        ram_bytes=_PROCESS_BYTES,
        disk_bytes=2 * work.n_prompts * (work.new_tokens * 5 + 500),
    )


def _judge_seconds(work: Workload) -> float:
    return 2 * work.n_prompts * work.n_judged * _JUDGE_SECONDS / work.judges_at_once


def _dimension(work: Workload, model: ModelShape) -> int:
    return work.dimension or model.width


def _records(work: Workload) -> float:
    return _PROCESS_BYTES + _PARTS_BYTES + (work.n_rows + work.n_references) * _INDEX_BYTES


def _warnings(needs: Needs) -> list[str]:
    too_large = [stage for stage in needs.stages if stage.device_bytes > needs.device.memory]  # none without a GPU
    held = needs.device.memory / GIB
    remedies = {"encode": "batch_tokens", "train": "per_device_train_batch_size or max_length"}
    return [
        f"{stage.stage} takes about {stage.device_bytes / GIB:.1f} GiB on a device of {held:.0f} GiB; lower "
        f"{remedies[stage.stage]}"
        for stage in too_large
        if stage.stage in remedies
    ]
