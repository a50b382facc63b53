"""What a run would take, before anything starts: rows and tokens from a sample, rates measured on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sotune.errors import ConfigError
from sotune.evaluation.evaluator import load_eval_prompts
from sotune.evaluation.metrics import JUDGE_ROLES
from sotune.methods import method_of, settle
from sotune.methods.inputs import own_constants
from sotune.methods.kl_constrained import KlConstrainedSettings
from sotune.models import ModelSpec, load_config, resolve_device
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.choosing import SAMPLE_ROWS
from sotune.pipeline.encoding import make_encoders
from sotune.pipeline.record_sets import source_options
from sotune.records import SET_NAMES, Record, SetName, dump_messages
from sotune.rendering import Renderer, load_renderer
from sotune.scaling import DEVICES, GIB, Device, ModelShape, Needs, StageNeeds, Workload, estimate_needs
from sotune.settings import RunConfig
from sotune.settings.train import CPU_TOKENS
from sotune.sources import SourceOptions, load_set, source_files
from sotune.training import memory
from sotune.wording import counted

SAMPLE = 1_000
"""Rows of each set that are read and tokenized; the number of all is counted, or follows from the bytes read."""
_MATRIX, _SECONDS = 1024, 0.2
_CONTEXT_BYTES = 0.5 * GIB  # of CUDA's libraries


@dataclass(frozen=True)
class Sampled:
    """What a sample says of a set.

    Attributes:
        n_rows: Of the whole set; exact where the sample is all of it, or the rows can be counted without reading them.
        lengths: Tokens of the sampled rows.
        row_bytes: Mean bytes of a row's text.
    """

    n_rows: int
    lengths: tuple[int, ...]
    row_bytes: float


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        needs: Of each stage.
        work: The run in numbers.
        n_rows: Of each set.
        median_tokens: Of the sampled downstream rows.
    """

    needs: Needs
    work: Workload
    n_rows: dict[str, int]
    median_tokens: int


def estimate_run(config: RunConfig, monitor: Monitor, *, gpu: str | None = None, n_devices: int = 1) -> Estimate:
    """Reckons what a run would take; reads samples of its data, loads no model, and writes nothing.

    Args:
        config: The settings.
        monitor: Receives progress.
        gpu: A device of `sotune.scaling.DEVICES` by name; ``None``: that of this machine, which is measured.
        n_devices: How many work together.

    Raises:
        ConfigError: The device or a setting is not known.
        DataError: A set cannot be read.
    """
    config = settle(config)
    spec, device = base_model(config), _device(config, gpu)
    renderer = load_renderer(spec, config)
    sets = {name: _sample(source, source_options(config, name), renderer) for name, source in _sources(config).items()}
    work = _workload(config, sets)
    half = device.is_gpu and config.dtype in ("auto", "bfloat16", "float16")
    packed = config.packing if config.packing is not None else not device.is_gpu
    work = replace(work, packed=packed)
    work = replace(work, training_bytes=_training_bytes(config, work, half, sets["downstream"].lengths))
    needs = estimate_needs(work, model_shape(spec, config, number_bytes=2 if half else 4), device, n_devices=n_devices)
    lengths = sorted(sets["downstream"].lengths)
    return Estimate(needs, work, {name: one.n_rows for name, one in sets.items()}, lengths[len(lengths) // 2])


def _training_bytes(config: RunConfig, work: Workload, half: bool, lengths: Sequence[int]) -> float:
    """Returns the memory of training at its largest micro-batch: of the longest rows, padded unless they are packed."""
    longest = min(work.longest, config.max_length)
    most = config.max_tokens_per_batch or (None if half else CPU_TOKENS)
    n_rows = config.per_device_train_batch_size
    rows = sum(sorted(lengths)[-n_rows:]) if work.packed else longest * n_rows
    tokens = rows if most is None else min(rows, max(most, longest))
    parts = memory.estimate(load_config(base_model(config)), config, half=half, tokens=tokens)
    return float(parts.total) + (_CONTEXT_BYTES if half else 0)


def model_shape(spec: ModelSpec, config: RunConfig, *, number_bytes: int) -> ModelShape:
    """Returns a model in numbers, from its configuration alone.

    Raises:
        ConfigError: There is none, or transformers does not know it.
    """
    from transformers import AutoModelForCausalLM

    found = load_config(spec)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found)
    text = found.get_text_config()
    head = model.get_output_embeddings()
    tied = head is None or bool(getattr(text, "tie_word_embeddings", False))
    embedding = model.get_input_embeddings().weight.numel()
    adapted = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in config.target_modules]
    sides = [layer.weight.shape for layer in adapted if getattr(layer, "weight", None) is not None]
    return ModelShape(
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_embedding=embedding if tied else embedding + head.weight.numel(),
        n_layers=int(text.num_hidden_layers),
        width=int(text.hidden_size),
        number_bytes=number_bytes,
        n_trained=float(config.r * sum(sum(shape) for shape in sides)),
    )


def _device(config: RunConfig, gpu: str | None) -> Device:
    if gpu is not None:
        if gpu not in DEVICES:
            raise ConfigError(f"gpu must be one of {', '.join(DEVICES)}. Got {gpu!r}")
        return DEVICES[gpu]
    device = resolve_device(config.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    before, threads = torch.get_num_threads(), config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flops = _product_rate(device, dtype)
    finally:
        torch.set_num_threads(before)
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        bandwidth = DEVICES["h100"].bandwidth * flops / DEVICES["h100"].flops
        return Device(known.name, flops, known.total_memory, bandwidth, source="measured on this machine")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = f"{device.type}, {counted(threads, 'thread')}"
    return Device(name, flops, memory, 10e9, threads=threads, source="measured on this machine")


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the floating-point operations a second of a large matrix product."""
    one = torch.ones(_MATRIX, _MATRIX, device=device, dtype=dtype)
    (one @ one).sum().item()
    started, n = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        (one @ one).sum().item()
        n += 1
    return 2 * n * _MATRIX**3 / (time.perf_counter() - started)


def _sources(config: RunConfig) -> dict[SetName, str]:
    named = {name: getattr(config, "data" if name == "downstream" else name) for name in SET_NAMES}
    return {name: source for name, source in named.items() if source is not None}


def _sample(source: str, options: SourceOptions, renderer: Renderer) -> Sampled:
    limit = min(SAMPLE, options.limit or SAMPLE)
    lengths: list[int] = []

    def measure(record: Record) -> None:
        tokens = renderer.tokens(record)
        lengths.append(len(tokens.input_ids))

    loaded = load_set(
        source,
        set_name="downstream",
        options=replace(options, limit=limit),
        max_quarantine_fraction=1.0,
        check=measure,
    )
    texts = [len(dump_messages(record.messages)) for record in loaded.records]
    whole = len(loaded.records)
    if whole >= limit:
        whole = min(_count(source, options) or whole, options.limit or 10**12)
    return Sampled(max(whole, len(loaded.records)), tuple(lengths), sum(texts) / len(texts))


def _count(source: str, options: SourceOptions) -> int | None:
    """Counts rows without reading them: lines, or what Parquet says; else reads them all."""
    files = source_files(source, options)
    if files is None or options.where:
        return _count_by_reading(source, options)
    counts = [_count_in(path) for path in files.files]
    return sum(n for n in counts if n is not None) if None not in counts else _count_by_reading(source, options)


def _count_in(path: Path) -> int | None:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    if path.suffix != ".jsonl":
        return None
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 22), b""))


def _count_by_reading(source: str, options: SourceOptions) -> int:
    loaded = load_set(source, set_name="downstream", options=options, max_quarantine_fraction=1.0)
    return len(loaded.records)


def _workload(config: RunConfig, sets: dict[SetName, Sampled]) -> Workload:
    downstream = sets["downstream"]
    every = [length for one in sets.values() for length in one.lengths]
    members = make_encoders(config).members
    prompts = 0 if config.eval_prompts is None else len(load_eval_prompts(config))
    kept, held = _kept(config, downstream.n_rows), "kl_constrained" in method_of(config).at("train")
    own = own_constants(KlConstrainedSettings, config.method_settings)
    prices = (config.judge_input_price, config.judge_output_price)
    return Workload(
        n_rows=downstream.n_rows,
        n_references=sum(one.n_rows for name, one in sets.items() if name != "downstream"),
        mean_tokens=sum(every) / len(every),
        longest=max(every),
        row_bytes=downstream.row_bytes,
        n_readings=len(members),
        n_sampled=SAMPLE_ROWS,
        batch_tokens=config.batch_tokens,
        kept=kept,
        epochs=_epochs(config, downstream.n_rows),
        micro_batch=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        n_prompts=prompts,
        new_tokens=config.max_new_tokens,
        eval_batch=config.eval_batch_size,
        n_judged=_chat_judges(config),
        judges_at_once=config.judge_concurrency,
        judge_tokens=(600.0, min(100.0, config.judge_max_tokens)),
        judge_prices=None if None in prices else (prices[0] or 0.0, prices[1] or 0.0),
        adaptive=config.cost == "adaptive",
        held=held,
        n_asked=min(own.asked_rows, round(downstream.n_rows * kept)) if held else 0,
        asked_tokens=own.asked_tokens,
    )


def _kept(config: RunConfig, n: int) -> float:
    if config.keep == "fixed" and config.k is not None:
        return min(1.0, config.k / n)
    return config.keep_fraction


def _epochs(config: RunConfig, n: int) -> float:
    if config.max_steps is None:
        return config.num_train_epochs
    rows = config.max_steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
    return rows / max(1.0, n * _kept(config, n))


def _chat_judges(config: RunConfig) -> int:
    """Returns how many questions each answer is to a chat judge; roles that judge only some prompts count in full."""
    roles = [getattr(config, f"{role}_judge") for role in JUDGE_ROLES]
    return sum(name == "chat" or name.startswith("chat:") for role in roles for name in role)


def describe_needs(found: Estimate) -> dict[str, dict[str, str]]:
    """Returns an estimate as a table shows it: for each stage time, and where how many GiB are taken."""
    needs = found.needs

    def row(one: StageNeeds | Needs) -> dict[str, str]:
        sizes = {"of RAM": one.ram_bytes, "on disk": one.disk_bytes}
        if needs.device.is_gpu:
            sizes = {"a device": one.device_bytes, **sizes}
        return {"time": tell_time(one.seconds), **{place: f"{size / GIB:,.2f}" for place, size in sizes.items()}}

    return {**{stage.stage: row(stage) for stage in needs.stages}, "all": row(needs)}


def describe_evaluation(found: Estimate) -> str:
    """Returns in words what answers and their judging take; empty where nothing is evaluated."""
    needs, work = found.needs, found.work
    if not work.n_prompts:
        return ""
    told = f"{counted(work.n_prompts, 'prompt')} to 2 models, at most {counted(work.new_tokens, 'token')} an answer: "
    told += f"{tell_time(needs.generation_seconds)} to answer"
    if not needs.n_questions:
        return f"{told}; no chat judge is asked"
    cost = "price not given" if needs.judge_cost is None else f"{needs.judge_cost:,.2f}"
    return f"{told}; {counted(needs.n_questions, 'question')}, {cost}, {tell_time(needs.judge_seconds)} to judge"


def tell_time(seconds: float) -> str:
    """Returns a time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
