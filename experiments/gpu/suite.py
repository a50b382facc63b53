"""Part 6: the project's own tests with every model on the GPU, for as long as time is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import Bench

PART = "suite"
_ROOT = Path(__file__).parents[2]
_FOLDERS = ("training", "methods", "representations", "evaluation", "pipeline", "comparison", "sentinels")
_MOST_FAILURES = 60


def run(bench: Bench) -> None:
    """Runs the tests marked gpu, then those that run models, under a plugin that turns ``cpu`` into ``cuda``."""
    limit = min(100.0 if bench.tiny else 25.0, bench.left - 6)
    bench.attempt(PART, "marked_gpu", lambda: _pytest(bench, "marked", ["-m", "gpu", "tests"], limit, everywhere=False))
    folders = [f"tests/{name}" for name in _FOLDERS if (_ROOT / "tests" / name).is_dir()]
    if bench.tiny:
        folders = ["tests/training/test_scoring.py"]
    limit = min(150.0 if bench.tiny else 600.0, bench.left - 4)
    arguments = [*([] if bench.tiny else ["-n", "12"]), *folders]
    bench.attempt(PART, "on_the_gpu", lambda: _pytest(bench, "suite", arguments, limit, everywhere=True))


def _pytest(bench: Bench, name: str, arguments: list[str], limit: float, *, everywhere: bool) -> dict[str, Any]:
    reports = bench.folder / f"{name}.jsonl"
    reports.unlink(missing_ok=True)
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "SOTUNE_GPU_REPORTS": str(reports),
        "SOTUNE_GPU_EVERYWHERE": "1" if everywhere else "",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "on_cuda",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        *arguments,
    ]
    process = subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            output, _ = process.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return {"exit_status": process.returncode, "limit": round(limit), **summary(reports), "tail": output[-2500:]}


def summary(reports: Path) -> dict[str, Any]:
    """Counts outcomes; names the failures."""
    lines = [json.loads(line) for line in reports.read_text().splitlines()] if reports.exists() else []
    failed = [line for line in lines if line["outcome"] == "failed"]
    return {
        "passed": sum(line["outcome"] == "passed" for line in lines),
        "skipped": sum(line["outcome"] == "skipped" for line in lines),
        "failed": len(failed),
        "failures": [{"test": line["test"], "last_line": line["last_line"]} for line in failed[:_MOST_FAILURES]],
    }
