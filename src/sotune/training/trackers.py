"""Where training is watched besides: the integrations of transformers, none unless asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sotune.errors import ConfigError

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
_TENSORBOARD_DIR = "TENSORBOARD_LOGGING_DIR"
"""Read by transformers, which would write below the checkpoints otherwise; those go when training ends."""


def check_trackers(names: Sequence[str]) -> None:
    """Checks that those who are to watch are installed.

    Raises:
        ConfigError: One is not.
    """
    missing = [_PACKAGES[name] for name in names if find_spec(_PACKAGES[name]) is None]
    if missing:
        raise ConfigError(f"report_to needs {', '.join(missing)}; run: pip install {' '.join(missing)}")


def tracker_arguments(names: Sequence[str], run_name: str) -> dict[str, Any]:
    """Returns the training arguments that say who watches."""
    return {"report_to": list(names) or "none", "run_name": run_name}


@contextlib.contextmanager
def tracked_in(folder: Path) -> Iterator[None]:
    """Has TensorBoard's files written to a folder, unless the user's environment names another."""
    if _TENSORBOARD_DIR in os.environ:
        yield
        return
    os.environ[_TENSORBOARD_DIR] = str(folder)
    try:
        yield
    finally:
        del os.environ[_TENSORBOARD_DIR]
