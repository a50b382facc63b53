"""Whether a run could go through, and what it would find: looked at before anything long."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from sotune.binomial import upper_bound
from sotune.errors import SotuneError
from sotune.evaluation.evaluator import load_eval_prompts
from sotune.evaluation.judges.registry import check_judges
from sotune.methods import method_of, settle
from sotune.models import ModelSpec, load_config, resolve_device
from sotune.monitoring import Monitor
from sotune.pipeline.base_model import base_model
from sotune.pipeline.estimating import describe_needs, estimate_run
from sotune.pipeline.evaluating import count_shared
from sotune.pipeline.method_tools import check_needs
from sotune.pipeline.record_sets import OwnRow, check_sets, check_weight_column, read_sources
from sotune.record_store import kept_on_disk
from sotune.records import Record, SetName
from sotune.rendering import Trial, load_renderer
from sotune.reporting.finding import LEAST_FOR_A_PROMISE
from sotune.sentinels import LEAST_SENTINELS, split_records
from sotune.settings import RunConfig, make_config, read_config
from sotune.sources import LoadedSet
from sotune.wording import counted

Status = Literal["ok", "note", "stops"]
_EXTRAS = {
    "sentence": "sentence-transformers",
    "judge": "openai",
    "eval": "lm-eval",
    "serve": "uvicorn",
    "trl": "trl",
}
_LIBRARIES = ("sotune", "torch", "transformers", "peft", "datasets", "pyarrow")
_CONFIDENCE = 0.95
_LITTLE_DISK = 5_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ok; note: worth knowing; stops: a run would end there.
        told: What was found, and what to do.
    """

    name: str
    status: Status
    told: str


@dataclass(frozen=True)
class Examination:
    """All that was looked at, in order."""

    checks: tuple[Check, ...]

    @property
    def faults(self) -> list[str]:
        """What would stop a run."""
        return [f"{check.name}: {check.told}" for check in self.checks if check.status == "stops"]


def examine_run(config: Mapping[str, Any] | str | None, monitor: Monitor) -> Examination:
    """Looks at the machine and, with a configuration, at what its run would need; loads no weights of any model.

    Args:
        config: A YAML file of settings, or a mapping of them.
        monitor: Receives progress.
    """
    checks = list(_machine())
    if config is None:
        return Examination(tuple(checks))
    try:
        given = read_config(Path(config)) if isinstance(config, str) else config
        made = settle(make_config(given, origin=str(config) if isinstance(config, str) else "settings"))
    except SotuneError as error:
        return Examination((*checks, Check("settings", "stops", str(error))))
    checks.append(Check("settings", "ok", f"method {made.method}, into {made.out}"))
    checks += _disk(Path(made.out))
    for look in (_model, _method, _data, _evaluation, _expected):
        checks += _tried(look.__name__.strip("_"), lambda look=look: look(made, monitor))  # type: ignore[misc]
    return Examination(tuple(checks))


def _tried(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        for check in look():
            found.append(check)  # noqa: PERF402 - what was found before an error counts
    except SotuneError as error:
        found.append(Check(name, "stops", str(error)))
    return found


def _machine() -> Iterator[Check]:
    import torch

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    yield Check("versions", "ok", f"python {platform.python_version()}, {versions}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("machine", "ok", f"{platform.system()} {platform.machine()}, {cores} cores, {_memory()}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Check(f"cuda:{number}", "ok", f"{name}, {free / 1e9:.1f} GB free of {total / 1e9:.1f}")
    elif torch.backends.mps.is_available():
        yield Check("device", "ok", "Apple's GPU (mps)")
    else:
        yield Check("device", "note", "no GPU: weighing works, training a model of over some 100 M parameters is slow")
    installed = {extra: _is_installed(package) for extra, package in _EXTRAS.items()}
    missing = [f"sotune[{extra}]" for extra, there in installed.items() if not there]
    there = ", ".join(extra for extra, is_there in installed.items() if is_there) or "none"
    yield Check("extras", "ok", f"installed: {there}" + (f"; not: {', '.join(missing)}" if missing else ""))


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.split()[1:]}
        return f"{kib['MemAvailable'] * 1024 / 1e9:.1f} GB of memory free of {kib['MemTotal'] * 1024 / 1e9:.1f}"
    except (OSError, KeyError, ValueError):
        return "memory not known"


def _disk(out: Path) -> Iterator[Check]:
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    if not writable:
        yield Check("disk", "stops", f"{place} cannot be written; name another folder with out")
    else:
        yield Check("disk", "ok" if free >= _LITTLE_DISK else "note", f"{free / 1e9:.1f} GB free at {place}")


def _model(config: RunConfig, monitor: Monitor) -> Iterator[Check]:
    if config.model is None:
        yield Check(
            "model", "note", f"only the encoder {config.encoder} is named: rows are weighed, nothing is trained"
        )
        return
    spec = base_model(config)
    shape = load_config(spec)
    size = _bytes_of(spec)
    told = f"{config.model}: {shape.model_type}" + (f", {size / 1e9:.2f} GB of weights" if size else "")
    yield Check("model", "ok", f"{told}, on {resolve_device(config.device)}")
    renderer = load_renderer(spec, config)
    yield Check("template", "ok", ", ".join(f"{name} {value}" for name, value in renderer.description.items()))


def _bytes_of(spec: ModelSpec) -> int:
    """Returns the size of a model's weights where they lie in a folder of this machine, else 0."""
    return 0 if spec.folder is None else sum(path.stat().st_size for path in spec.folder.glob("*.safetensors"))


def _method(config: RunConfig, monitor: Monitor) -> Iterator[Check]:
    check_needs(config, method_of(config))
    yield Check("method", "ok", f"{config.method}, holding by {config.hold}")


def _data(config: RunConfig, monitor: Monitor) -> Iterator[Check]:
    trial = None if config.model is None else Trial(load_renderer(base_model(config), config))
    with kept_on_disk() as keep:
        yield from _rows(config, read_sources(config, monitor, lambda _: keep, trial))
    for warning in [] if trial is None else trial.warnings():
        yield Check("rendering", "note", warning)


def _rows(config: RunConfig, loaded: Mapping[SetName, LoadedSet]) -> Iterator[Check]:
    sets = {name: one.records for name, one in loaded.items()}
    for name, one in loaded.items():
        told = f"{counted(len(one.records), 'row')} ({one.format})"
        told += f", {len(one.quarantined):,} cannot be used" if one.quarantined else ""
        yield Check(
            name.replace("_", " "),
            "note" if one.quarantined or one.warnings else "ok",
            "; ".join((told, *one.warnings)),
        )
    for record in sets["downstream"]:
        check_weight_column(OwnRow(record.meta, record.origin), config.weight_column)
    notes = check_sets(loaded, config.min_reference_rows)
    yield Check("overlap", "note" if notes else "ok", "; ".join(notes) or "no row is in two sets, word for word")
    yield from _sentinels(config, sets["harmful_reference"])
    yield from _asked_before(config, sets)


def _sentinels(config: RunConfig, harmful: Sequence[Record]) -> Iterator[Check]:
    if config.sentinels == "off":
        yield Check("promise", "note", "none: sentinels are off")
        return
    folds = split_records(
        harmful, seed=config.seed, tuning_share=config.tuning_share, measuring_share=config.measuring_share
    )
    n, fewest = len(folds.measuring), min(len(folds.tuning), len(folds.reference))
    if n < LEAST_FOR_A_PROMISE or fewest < LEAST_SENTINELS:
        told = f"{counted(n, 'harmful row')} would measure what passes, fewer than {LEAST_FOR_A_PROMISE}"
        if n >= LEAST_FOR_A_PROMISE:
            told = f"{counted(fewest, 'harmful row')} would choose settings, fewer than {LEAST_SENTINELS}"
        yield Check("promise", "note", f"{told}: nothing is promised; bring some {_enough(config)} prompts")
        return
    bounds = [upper_bound(passed, n, confidence=_CONFIDENCE) for passed in (0, max(1, n // 20))]
    yield Check(
        "promise",
        "ok",
        f"{n} harmful rows measure what passes: at most {bounds[0]:.1%} if none does, {bounds[1]:.1%} if "
        f"{max(1, n // 20)} do ({_CONFIDENCE:.0%})",
    )


def _enough(config: RunConfig) -> int:
    """Returns how many harmful prompts make each fold large enough, as a rule."""
    least = LEAST_SENTINELS / min(config.tuning_share, 1 - config.tuning_share - config.measuring_share)
    return round(1.2 * max(LEAST_FOR_A_PROMISE / config.measuring_share, least))  # a fold is as large as chance has it


def _asked_before(config: RunConfig, sets: Mapping[SetName, Sequence[Record]]) -> Iterator[Check]:
    """Tells of evaluation prompts that stand in the rows: a model is then asked what it has been taught."""
    if config.eval_prompts is None:
        return
    prompts = load_eval_prompts(config)
    shared = count_shared(prompts, sets)
    told = [f"{n:,} are prompts of the {name.replace('_', ' ')} too" for name, n in shared.items()]
    yield Check("evaluation prompts", "note" if told else "ok", "; ".join([counted(len(prompts), "prompt"), *told]))


def _evaluation(config: RunConfig, monitor: Monitor) -> Iterator[Check]:
    if config.eval_prompts is None:
        yield Check("evaluation", "note", "no eval_prompts: nothing is evaluated")
        return
    check_judges(config)
    unset = {who: name for who in ("judge", "server") if (name := getattr(config, f"{who}_key_env"))}
    unset = {who: name for who, name in unset.items() if not os.environ.get(name)}
    for who, name in unset.items():
        yield Check(who, "stops", f"{name} is not in the environment; put the {who}'s key there")
    if "judge" not in unset:
        yield Check("judge", "ok", f"harm by {', '.join(config.harm_judge) or 'refusal phrases, a stand-in'}")


def _expected(config: RunConfig, monitor: Monitor) -> Iterator[Check]:
    """Tells time and memory."""
    if config.model is None:
        return
    found = estimate_run(config, monitor)
    for stage, needs in describe_needs(found).items():
        sizes = ", ".join(f"{size} {place}" for place, size in needs.items() if place != "time")
        yield Check(f"expected: {stage}", "ok", f"{needs['time']}; GiB: {sizes}")
    for warning in found.needs.warnings:
        yield Check("expected", "note", warning)
