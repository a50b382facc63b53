"""What benchmarks of several ways have in common: each runs in a process of its own, in turns, and is measured."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

Result = dict[str, Any]


def in_turns(
    ways: Sequence[str],
    *,
    rounds: int = 1,
    arguments: Sequence[str] = (),
    sources: Mapping[str, Path] = MappingProxyType({}),
) -> list[Result]:
    """Runs this benchmark anew for each way, told by ``--way``, as often as there are rounds; prints what each found.

    Args:
        ways: In which order.
        rounds: How often.
        arguments: Beyond those that this process got.
        sources: The ways for which packages are looked for in another folder first.
    """
    results = []
    for way in list(ways) * rounds:
        results.append(alone([*sys.argv[1:], *arguments, "--way", way], source=sources.get(way)))
        print(results[-1], flush=True)
    return results


def alone(arguments: Sequence[str], *, source: Path | None = None) -> Result:
    """Runs this benchmark with other arguments in a process of its own; returns the JSON of its last line."""
    paths = [str(source)] if source else []
    environment = {**os.environ, "PYTHONPATH": ":".join([*paths, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, sys.argv[0], *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def medians(results: Sequence[Result], *names: str) -> dict[str, dict[str, float]]:
    """Returns the median of some figures over the rounds of each way."""
    return {
        way: {name: statistics.median(result[name] for result in results if result["way"] == way) for name in names}
        for way in dict.fromkeys(result["way"] for result in results)
    }


def measured(work: Callable[[], Any]) -> dict[str, float]:
    """Does some work; returns the seconds and memory that it took. Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux forgets the peak so far
    before, start, cpu = mebibytes("VmRSS"), time.perf_counter(), time.process_time()
    work()
    return {
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.perf_counter() - start,
        "peak_mib": mebibytes("VmHWM") - before,
    }


def mebibytes(field: str) -> float:
    """Returns a figure of this process's memory; see proc(5)."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")
