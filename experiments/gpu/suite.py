"""Part 6: the project's own tests with every model on the GPU, for as long as time is left."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import Bench

PART = "suite"
_ROOT = Path(__file__).parents[2]
_FOLDERS = ("training", "methods", "representations", "evaluation", "pipeline", "comparison", "sentinels")
_MOST_FAILURES = 60
_GRACE = 6  # seconds that pytest is given to end


def run(bench: Bench) -> None:
    """Runs the tests that run models, under a plugin that turns ``cpu`` into ``cuda``."""
    tests = ["tests/training/test_token_losses.py"] if bench.tiny else [f"tests/{name}" for name in _FOLDERS]
    limit = min(150.0 if bench.tiny else 600.0, bench.left - _GRACE)
    bench.attempt(PART, "on_the_gpu", lambda: run_tests(bench.folder, tests, limit))


def run_tests(folder: Path, tests: list[str], limit: float) -> dict[str, Any]:
    """Runs tests until they are done or the time is up; a file that lacks a library is left out, and named."""
    reports, output = folder / "suite.jsonl", folder / "suite.txt"
    reports.unlink(missing_ok=True)
    options = ["-q", "-p", "on_cuda", "-p", "no:cacheprovider", "--tb=short", "--continue-on-collection-errors"]
    if len(tests) > 1 and importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(min(12, len(os.sched_getaffinity(0))))]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
        "SOTUNE_GPU_REPORTS": str(reports),
    }
    # To a file: workers of pytest-xdist would keep a pipe open after pytest itself is gone.
    with output.open("w") as file:
        command = [sys.executable, "-m", "pytest", *options, *tests]
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        in_time = _end_in_time(process, limit)
    status = {"exit_status": process.returncode, "in_time": in_time, "limit": round(limit)}
    return {**status, **summary(reports), "tail": output.read_text(errors="replace")[-2500:]}


def _end_in_time(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Waits for pytest; at the limit it is interrupted, so that it ends its workers and sums up, then killed."""
    try:
        process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_GRACE - 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False
    return True


def summary(reports: Path) -> dict[str, Any]:
    """Counts outcomes; names the failures."""
    lines = [json.loads(line) for line in reports.read_text().splitlines()] if reports.exists() else []
    failed = [line for line in lines if line["outcome"] == "failed"]
    left_out = sorted({line["test"] for line in lines if line["outcome"] == "not collected"})
    return {
        "passed": sum(line["outcome"] == "passed" for line in lines),
        "skipped": sum(line["outcome"] == "skipped" for line in lines),
        "failed": len(failed),
        "not_collected": left_out,
        "failures": [{"test": line["test"], "last_line": line["last_line"]} for line in failed[:_MOST_FAILURES]],
    }
