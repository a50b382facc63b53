"""What other packages bring: entry points of a group, found by name and loaded when they are asked for."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from sotune.errors import ConfigError


def installed(group: str) -> dict[str, metadata.EntryPoint]:
    """Returns the entry points of a group by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=group)}


def load_plugin(what: str, entry: metadata.EntryPoint) -> Any:
    """Imports what an entry point names.

    Args:
        what: Names it in messages, such as ``method``.
        entry: Where it lies.

    Raises:
        ConfigError: It could not be loaded.
    """
    try:
        return entry.load()
    except Exception as error:  # noqa: BLE001 - whatever another package raises when it is imported
        raise ConfigError(
            f"{what} {entry.name!r} of {entry.value} could not be loaded ({error}); fix or remove its package"
        ) from error
