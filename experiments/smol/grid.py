"""Runs the comparison: one `sotune.compare` for each task and harmful share, several at once, until a deadline.

``grid.py MODEL WORK OUT --deadline SECONDS --workers N [--judge FOLDER] [--tiny]``. Each comparison goes seed by seed,
so that all conditions have equally many when time is up; what is done stays, and the same call goes on where it stood.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

LEARNING_RATE = 1.5e-3
LOW_RATE = {"learning_rate": LEARNING_RATE / 5}
METHODS: tuple[str | dict[str, Any], ...] = (  # what matters most first, since time may be up
    "base", "sft", "adaptive", "kl", "adaptive + kl", "oracle",
    {"method": "sft", "name": "low_rate", **LOW_RATE},
    "probe", "sot", "random", "sbr", "safeinstr", "oracle + kl",
    {"method": "adaptive", "name": "adaptive + low_rate", **LOW_RATE},
    "self_trained_probe", "adaptive + sbr", "lisa", "bds",
)  # fmt: skip
NAMES = tuple(method if isinstance(method, str) else str(method["name"]) for method in METHODS)
MATCH = {"agnews": "label", "sql": "f1", "gsm8k": "number"}
TASKS = ("agnews", "sql")
SHARES = (0.1, 0.0)
BUDGET: dict[str, Any] = {
    "template": "chat", "layer": 20, "pooling": "completion_mean", "max_length": 256, "dtype": "float32",
    "learning_rate": LEARNING_RATE, "per_device_train_batch_size": 16, "num_train_epochs": 2, "save_steps": 100_000,
    "n": 320, "n_anchor": 50, "n_reference": 160, "n_eval": 96, "max_new_tokens": 40, "eval_batch_size": 256,
    "seeds": 3,
}  # fmt: skip
TINY: dict[str, Any] = {
    "layer": 1, "n": 24, "n_anchor": 8, "n_reference": 12, "n_eval": 2, "max_new_tokens": 4, "seeds": 1,
}  # fmt: skip

_STARTS = 3
_COMPARE = "import sys, sotune; sotune.compare(sys.argv[1], out=sys.argv[2], workers=int(sys.argv[3]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--deadline", type=float, required=True, help="seconds from now")
    parser.add_argument("--workers", type=int, default=12, help="cells at once, over all comparisons")
    parser.add_argument("--judge", type=Path, help="the classifier of harmful answers; default: refusal phrases judge")
    parser.add_argument("--tasks", nargs="+", choices=[*MATCH], default=TASKS)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.deadline
    configs = write_configs(
        arguments.model,
        arguments.work,
        arguments.out,
        judge=arguments.judge,
        tasks=arguments.tasks,
        tiny=arguments.tiny,
    )
    run(configs, arguments.out, workers=arguments.workers, until=until)


def write_configs(
    model: Path, work: Path, out: Path, *, judge: Path | None, tasks: Sequence[str], tiny: bool
) -> list[Path]:
    """Writes a configuration for each task and share."""
    prompts = _few_prompts(work / "eval.jsonl.gz", out) if tiny else work / "eval.jsonl.gz"
    configs = []
    for task in tasks:
        for share in SHARES:
            data = {
                "name": task,
                "task": str(work / f"{task}.jsonl.gz"),
                "harmful": str(work / "harmful.jsonl.gz"),
                "refusals": str(work / "benign_risky.jsonl.gz"),
                "refusal_fraction": 0.05,
                "safety_pairs": str(work / "safety_pairs.jsonl.gz"),
                "eval_prompts": str(prompts),
            }
            config = {
                "model": str(model),
                **BUDGET,
                **(TINY if tiny else {}),
                **({} if judge is None else {"harm_judge": f"classifier:{judge}", "classifier_input": "paper"}),
                "methods": list(METHODS),
                "task_match": MATCH[task],
                "datasets": [data],
                "harmful_fractions": [share],
            }
            path = out / f"{task}-p{share:g}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            configs.append(path)
    return configs


def _few_prompts(prompts: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(prompts, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    few = out / "eval.jsonl"
    few.write_text("\n".join(lines[::64]) + "\n", encoding="utf-8")
    return few


class Job:
    """One comparison under way. One that ends in an error is begun again, with a worker less: it may be memory."""

    def __init__(self, config: Path, out: Path, workers: int) -> None:
        self.config, self.out, self.workers, self.starts = config, out, workers, 0
        self.start()

    def start(self) -> None:
        """Starts it, or goes on where it stood."""
        self.starts += 1
        command = [sys.executable, "-c", _COMPARE, str(self.config), str(self.out), str(self.workers)]
        with self.config.with_suffix(".log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def is_over(self) -> bool:
        """Tells whether it is done, or has failed for good."""
        code = self.process.poll()
        if code in (None, 0) or self.starts == _STARTS:
            return code is not None
        print(f"{self.config.stem}: exit {code}; once more", flush=True)
        self.workers = max(1, self.workers - 1)
        self.start()
        return False


def run(configs: list[Path], out: Path, *, workers: int, until: float) -> None:
    """Runs all comparisons together, and ends those that are not done in time."""
    each = [max(1, workers // len(configs) + (place < workers % len(configs))) for place in range(len(configs))]
    jobs = [Job(config, out / config.stem, n) for config, n in zip(configs, each, strict=True)]
    while time.monotonic() < until and not all([job.is_over() for job in jobs]):
        time.sleep(1)
    for job in jobs:
        job.process.terminate()
        n_cells = len(list(job.out.glob("cells/*/*/result.json")))
        print(f"{job.config.stem}: {n_cells} cells, exit {job.process.wait()}", flush=True)


if __name__ == "__main__":
    main()
