"""Runs the comparison of table.yaml, or of another table, on a GPU, until a deadline.

``grid.py OUT --deadline SECONDS --workers N [--table FILE] [--judge FOLDER] [--tiny]``: a `sotune.compare` for each
task and share, together. Each goes seed by seed, so that all conditions have equally many when time is up; what is done
stays, and the same call goes on where it stood.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sotune.worlds import SmolWorld

OWN_TABLE = Path(__file__).with_name("table.yaml")
TABLE: dict[str, Any] = yaml.safe_load(OWN_TABLE.read_text(encoding="utf-8"))
NAMES = tuple(method if isinstance(method, str) else str(method["name"]) for method in TABLE["methods"])
TASKS = tuple(name.removeprefix("smol-") for name in TABLE["datasets"])
ON_GPU: dict[str, Any] = {"eval_batch_size": 256, "save_steps": 100_000, "prompt_control": False}
TINY: dict[str, Any] = {
    "layer": 1, "n": 24, "n_anchor": 8, "n_reference": 12, "n_eval": 2, "max_new_tokens": 4, "seeds": 1,
}  # fmt: skip
_TINY_METHODS = 6

_STARTS = 3
_COMPARE = "import sys, sotune; sotune.compare(sys.argv[1], out=sys.argv[2], workers=int(sys.argv[3]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--deadline", type=float, required=True, help="seconds from now")
    parser.add_argument("--workers", type=int, default=12, help="cells at once, over all comparisons")
    parser.add_argument("--table", type=Path, default=OWN_TABLE)
    parser.add_argument("--judge", type=Path, help="the classifier of harmful answers; default: refusal phrases judge")
    parser.add_argument("--tasks", nargs="+", choices=SmolWorld.tasks, default=TASKS)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.deadline
    table = yaml.safe_load(arguments.table.read_text(encoding="utf-8"))
    configs = write_configs(
        arguments.out, table=table, judge=arguments.judge, tasks=arguments.tasks, tiny=arguments.tiny
    )
    run(configs, arguments.out, workers=arguments.workers, until=until)


def write_configs(
    out: Path, *, judge: Path | None, tasks: Sequence[str], tiny: bool, table: dict[str, Any] = TABLE
) -> list[Path]:
    """Writes a configuration for each task and share of a table."""
    out.mkdir(parents=True, exist_ok=True)
    shares = table["harmful_fractions"]
    few = {"eval_prompts": str(_few_prompts(SmolWorld().rows("eval"), out))} if tiny else {}
    configs = []
    for task in tasks[:1] if tiny else tasks:
        for share in shares[:1] if tiny else shares:
            config = {
                **table,
                **ON_GPU,
                **(TINY | {"methods": table["methods"][:_TINY_METHODS]} if tiny else {}),
                **({} if judge is None else {"harm_judge": f"classifier:{judge}", "classifier_input": "paper"}),
                "datasets": [{"smol": task, **few}],
                "harmful_fractions": [share],
            }
            path = out / f"{task}-p{share:g}.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            configs.append(path)
    return configs


def _few_prompts(prompts: Path, out: Path) -> Path:
    few = out / "eval.jsonl"
    few.write_text("\n".join(prompts.read_text(encoding="utf-8").splitlines()[::64]) + "\n", encoding="utf-8")
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
