"""A pytest plugin: models that a test puts on the CPU go to CUDA, and each report is written down as it comes."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Replaces the one function that turns a device's name into a device, before any module imports it."""
    import torch

    from sotune import models

    if torch.cuda.is_available():
        resolve = models.resolve_device
        models.resolve_device = lambda device: resolve("cuda" if device == "cpu" else device)


def pytest_collectreport(report: Any) -> None:
    """Notes a file that could not be imported, for want of a library most likely."""
    if report.outcome == "failed":
        _write({"test": report.nodeid, "outcome": "not collected", "seconds": 0.0}, str(report.longrepr))


def pytest_runtest_logreport(report: Any) -> None:
    """Notes the outcome of a test."""
    if report.when == "call" or report.outcome != "passed":
        entry = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        _write(entry, "" if report.outcome == "passed" else str(report.longrepr))


def _write(entry: dict[str, Any], text: str) -> None:
    """Appends a line; with pytest-xdist, the controller alone does."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    lines = [line for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("E ")), lines[-1] if lines else "")
    entry |= {"last_line": last[:400], "text": "" if entry["outcome"] == "skipped" else text[-4000:]}
    with open(os.environ["SOTUNE_GPU_REPORTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
