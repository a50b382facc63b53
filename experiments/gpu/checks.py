"""Part 1: does everything work on CUDA, and does it give what the CPU gives?"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from bench import Bench
from solver import sets

PART = "checks"
_LIMIT = 100  # seconds that a run may take
_RUN = "import sys, sotune; sotune.run(config=sys.argv[1])"


def run(bench: Bench) -> None:
    """Starts whole runs, checks functions meanwhile, then compares the runs."""
    work = Path(tempfile.mkdtemp(prefix="sotune-checks-"))
    processes: dict[str, Any] = {}
    bench.attempt(PART, "runs_started", lambda: processes.update(_start(bench, work)))
    for name, check in _FUNCTIONS.items():
        bench.attempt(PART, name, functools.partial(check, bench.device))
    limit = _LIMIT * (4 if bench.tiny else 1)
    for name, (process, started) in processes.items():
        wait = functools.partial(_finish, process, started, work / f"{name}.log", limit)
        bench.attempt(PART, f"run_{name}", wait)
    bench.attempt(PART, "weights_of_runs", lambda: _compare_runs(work))


# --- Runs -------------------------------------------------------------------------------------------------------------


def _start(bench: Bench, work: Path) -> dict[str, Any]:
    _write_data(work, n=60 if bench.tiny else 400)
    device = bench.device
    variants = {
        "cpu": {"device": "cpu", "dtype": "float32"},
        "cuda": {"device": device, "dtype": "float32"},
        "cuda_auto": {"device": device, "dtype": "float32", "layer": "auto", "pooling": "auto"},
        "cuda_bfloat16": {"device": device, "dtype": "auto"},
    }
    if bench.tiny:
        variants = {name: variants[name] for name in ("cpu", "cuda")}
    return {name: _command(work, name, changes) for name, changes in variants.items()}


def _write_data(work: Path, *, n: int) -> None:
    from sotune.miniature import (
        generate_eval_prompts,
        generate_harmful_reference,
        generate_safe_anchor,
        generate_task_data,
    )

    sets = {
        "data": generate_task_data("verdict", n=n, harmful_fraction=0.1, seed=0),
        "anchor": generate_safe_anchor("verdict", n=50, seed=0),
        "harm": generate_harmful_reference(n=max(40, n // 4), seed=0),
    }
    for name, records in sets.items():
        lines = [{"id": r.id, "prompt": r.prompt[0].content, "completion": r.completion} for r in records]
        _write_lines(work / f"{name}.jsonl", lines)
    prompts = generate_eval_prompts("verdict", n_each=10, seed=0)
    _write_lines(
        work / "prompts.jsonl",
        [
            {"id": p.id, "kind": p.kind, "prompt": p.messages[0].content, "reference": p.reference, **p.meta}
            for p in prompts
        ],
    )


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _command(work: Path, name: str, changes: dict[str, str]) -> tuple[subprocess.Popen[bytes], float]:
    from sotune.miniature import model_path

    config = {
        "data": str(work / "data.jsonl"),
        "safe_anchor": str(work / "anchor.jsonl"),
        "harmful_reference": str(work / "harm.jsonl"),
        "eval_prompts": str(work / "prompts.jsonl"),
        "model": str(model_path()),
        "out": str(work / name),
        "template": "paper",
        "layer": -1,
        "pooling": "last",
        "max_length": 64,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 16,
        "judges": "miniature",
        "max_new_tokens": 24,
        "eval_batch_size": 64,
        "threads": 2,
        **changes,
    }
    file = work / f"{name}.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with (work / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(file)],
            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    return process, time.time()


def _finish(process: subprocess.Popen[bytes], started: float, log: Path, limit: float) -> dict[str, Any]:
    try:
        process.wait(timeout=max(1.0, started + limit - time.time()))
    except subprocess.TimeoutExpired:
        process.kill()
        raise TimeoutError(f"not done after {limit} s:\n{log.read_text()[-6000:]}") from None
    text = log.read_text()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}:\n{text[-9000:]}")
    return {"exit_status": 0, "log_tail": text[-1500:]}


def _compare_runs(work: Path) -> dict[str, Any]:
    from sotune.run_files import WEIGHTS

    columns = {
        name: WEIGHTS.columns_of(work / name)
        for name in ("cpu", "cuda", "cuda_auto", "cuda_bfloat16")
        if (work / name / WEIGHTS.name).exists()
    }
    found: dict[str, Any] = {"folders": sorted(columns)}
    if {"cpu", "cuda"} <= columns.keys():
        n = len(columns["cpu"]["id"])
        if columns["cpu"]["id"] != columns["cuda"]["id"]:
            raise AssertionError("the runs weigh other rows")
        pairs = zip(columns["cpu"]["weight"], columns["cuda"]["weight"], strict=True)
        largest = max(abs(a - b) for a, b in pairs)
        found |= {"largest_difference": largest, "largest_relative_weight_difference": largest * n}
        found["within_1e-4"] = largest <= 1e-4
    for name in columns:
        metrics = work / name / "metrics.json"
        if metrics.exists():
            tuned = json.loads(metrics.read_text()).get("tuned", {})
            found[f"metrics_{name}"] = {k: v.get("value", v) if isinstance(v, dict) else v for k, v in tuned.items()}
    return found


# --- Functions --------------------------------------------------------------------------------------------------------


def _difference(a: Any, b: Any) -> float:
    """Returns ‖a − b‖ / ‖b‖ in float64."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


def _close(a: Any, b: Any, limit: float) -> dict[str, Any]:
    difference = _difference(a, b)
    if not difference <= limit:  # NaN never passes
        raise AssertionError(f"relative difference {difference:.3g} from the CPU's result, limit {limit:g}")
    return {"relative_difference": difference}


def _weights(
    solver: str, cost: str, *, double: bool = False, max_memory: int | None = None, limit: float = 1e-3
) -> Any:
    def check(device: str) -> dict[str, Any]:
        from sotune.settings import WeightSettings
        from sotune.weights import Scorer, learn_weights

        data = [part.double() if double else part for part in sets(1500, 300, 48, "cpu")]
        there = [part.to(device) for part in data]
        steps = 10 if solver == "sharp" else 200
        settings = WeightSettings(cost=cost, solver=solver, max_memory=max_memory, max_outer_steps=steps)
        ours, cpu = (learn_weights(x, safe, harmful, settings) for x, safe, harmful in (there, data))
        found = _close(ours.weights, cpu.weights, limit)
        found |= {"device_of_weights": str(ours.weights.device), "converged": ours.converged, "passes": ours.n_passes}
        if ours.tau is not None:
            scorer = Scorer.from_learned(ours, settings=settings, references=there[1:])
            found["scored_again"] = _close(scorer.score(there[0]).weights, ours.weights, 1e-3)
            with tempfile.TemporaryDirectory() as folder:
                scorer.save(Path(folder) / "potentials.safetensors")
                loaded = Scorer.load(Path(folder) / "potentials.safetensors")
                found["loaded_on_cpu"] = _close(loaded.score(data[0]).weights, cpu.weights, limit)
        return found

    return check


def _separation(device: str) -> dict[str, Any]:
    import torch

    from sotune.weights import held_out_separation

    def measure(parts: list[Any]) -> float:
        return held_out_separation(
            *parts, safe_prompts=range(len(parts[1])), harmful_prompts=range(len(parts[2])), n_folds=3,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    data = sets(1000, 200, 48, "cpu")
    ours, cpu = measure([part.to(device) for part in data]), measure(data)
    if abs(ours - cpu) > 1e-3:
        raise AssertionError(f"{ours} on {device}, {cpu} on the CPU")
    return {"device": ours, "cpu": cpu}


def _sinkhorn(device: str) -> dict[str, Any]:
    import torch

    from sotune.transport import CosineCost, OTProblem, sinkhorn

    def solve(x: Any, y: Any) -> Any:
        a, b = torch.full((len(x),), 1 / len(x)).to(x), torch.full((len(y),), 1 / len(y)).to(x)
        return sinkhorn(OTProblem(CosineCost(x, y), a, b, 0.05), tolerance=1e-5, max_iters=2000)

    x, _, y = sets(1000, 300, 48, "cpu")
    ours, cpu = solve(x.to(device), y.to(device)), solve(x, y)
    return {**_close(ours.f - ours.f.mean(), cpu.f - cpu.f.mean(), 1e-2), "iterations": [ours.n_iters, cpu.n_iters]}


def _nearest(device: str) -> dict[str, Any]:
    import torch

    from sotune.transport import CosineCost
    from sotune.weights.nearest import nearest_by_mass

    x, _, y = sets(500, 200, 48, "cpu")

    def find(x: Any, y: Any) -> Any:
        return nearest_by_mass(CosineCost(x, y), torch.zeros(len(y)).to(y), 0.1, most=3)

    return _close(find(x.to(device), y.to(device)).shares, find(x, y).shares, 1e-3)


def _loss(device: str) -> dict[str, Any]:
    import torch

    from sotune.training import compute_weighted_loss
    from sotune.training.loss import compute_token_losses

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 33, 1000, generator=generator)
    labels = torch.randint(0, 1000, (4, 33), generator=generator)
    labels[:, :10] = -100
    weight = torch.rand(4, generator=generator)

    def gradient(device: str) -> Any:
        there = logits.detach().to(device).requires_grad_()
        losses = compute_token_losses(there, labels.to(device))
        compute_weighted_loss(losses, labels.to(device), weight.to(device), n_rows=4).backward()  # type: ignore[no-untyped-call]
        return there.grad

    return _close(gradient(device), gradient("cpu"), 1e-5)


def _encoder(padding_side: Literal["left", "right"]) -> Any:
    def check(device: str) -> dict[str, Any]:
        from sotune.miniature import generate_task_data, model_path
        from sotune.models import ModelSpec
        from sotune.representations import POOLINGS, CausalLMReadings, FrozenCausalLM, encode_group
        from sotune.settings import RenderingSettings

        records = generate_task_data("verdict", n=200, harmful_fraction=0.1, seed=0)

        def encode(device: str) -> Any:
            spec = ModelSpec(str(model_path()), dtype="float32", device=device)
            rendering = RenderingSettings(template="paper", max_length=64)
            model = FrozenCausalLM(spec, rendering, batch_tokens=1024, padding_side=padding_side)
            return encode_group(CausalLMReadings(model, layers=(3, 2, 1), poolings=POOLINGS), records)

        return _close(encode(device), encode("cpu"), 1e-4)

    return check


_FUNCTIONS: dict[str, Any] = {
    "weights_mirror_cosine": _weights("mirror", "cosine"),
    "weights_mirror_adaptive": _weights("mirror", "adaptive"),
    "weights_mirror_cosine_float64": _weights("mirror", "cosine", double=True, limit=1e-4),
    "weights_streamed_cosine": _weights("mirror", "cosine", max_memory=1 << 20, limit=1e-2),
    "weights_streamed_adaptive": _weights("mirror", "adaptive", max_memory=1 << 20, limit=1e-2),
    "weights_cccp_cosine": _weights("cccp", "cosine"),
    "weights_one_step_cosine": _weights("one_step", "cosine"),
    "weights_sharp_cosine": _weights("sharp", "cosine"),
    "held_out_separation": _separation,
    "sinkhorn": _sinkhorn,
    "nearest_by_mass": _nearest,
    "loss": _loss,
    "encoder_right_padding": _encoder("right"),
    "encoder_left_padding": _encoder("left"),
}
