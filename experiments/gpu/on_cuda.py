"""A pytest plugin: models that a test puts on the CPU go to CUDA, and each report is written down as it comes."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Replaces the one function that turns a device's name into a device, before any module imports it."""
    if not os.environ.get("SOTUNE_GPU_EVERYWHERE"):
        return
    import torch

    from sotune import models

    if torch.cuda.is_available():
        resolve = models.resolve_device
        models.resolve_device = lambda device: resolve("cuda" if device == "cpu" else device)


def pytest_runtest_logreport(report: Any) -> None:
    """Appends the outcome of a test; with pytest-xdist, the controller alone does."""
    if "PYTEST_XDIST_WORKER" in os.environ or not (report.when == "call" or report.outcome != "passed"):
        return
    text = "" if report.outcome == "passed" else str(report.longrepr)
    lines = [line for line in text.splitlines() if line.strip()]
    entry = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
        "last_line": next((line for line in reversed(lines) if line.startswith("E ")), lines[-1] if lines else "")[
            :400
        ],
        "text": text[-4000:] if report.outcome == "failed" else "",
    }
    with open(os.environ["SOTUNE_GPU_REPORTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
