"""The demonstration: fine-tuning breaks safety, shown on a world, with what keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sotune.catalogue import list_known
from sotune.comparison.compare import CompareSummary, run_comparison
from sotune.comparison.compare_settings import MINIATURE, CompareSettings, make_compare_settings
from sotune.errors import ConfigError
from sotune.monitoring import Monitor
from sotune.worlds import WORLDS


def demo_settings(world: str = MINIATURE, **changes: Any) -> CompareSettings:
    """Returns the comparison that the demonstration of a world is, with some settings changed.

    That of the miniature lasts minutes, that of a real model hours.

    Raises:
        ConfigError: There is no such world.
    """
    if world not in WORLDS:
        raise ConfigError(f"there is no world {world!r}; {list_known(world, tuple(WORLDS))}")
    return make_compare_settings({"model": world, **WORLDS[world].demo, **changes})


def run_demo(out: Path, settings: CompareSettings, monitor: Monitor) -> CompareSummary:
    """Compares methods on a world and writes a report; goes on where an earlier call stopped.

    Raises:
        ArtifactError: ``out`` holds something else.
    """
    return run_comparison(settings, out, monitor, page="report.html")
