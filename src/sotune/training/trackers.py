"""Where training is watched besides: the integrations of transformers, none unless asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotune.errors import ConfigError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import Trainer

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
ON_THIS_MACHINE = ("tensorboard",)
"""Those that write files and send nothing."""
_REMEDIES = {
    "tensorboard": "see to the folder that TENSORBOARD_LOGGING_DIR names",
    "wandb": "log in with wandb login, or set WANDB_MODE=offline",
    "mlflow": "name a server or a database in MLFLOW_TRACKING_URI, like sqlite:///mlflow.db; for a folder of files, "
    "newer versions of MLflow also want MLFLOW_ALLOW_FILE_STORE=true",
    "trackio": "see to its folder, or to TRACKIO_SPACE_ID",
}
_EVENTS = ("on_train_begin", "on_log", "on_save", "on_train_end")
_TENSORBOARD_DIR = "TENSORBOARD_LOGGING_DIR"
"""Read by transformers, which would write below the checkpoints otherwise; those go when training ends."""


def check_trackers(names: Sequence[str]) -> None:
    """Checks that those who are to watch are installed, and whole.

    Raises:
        ConfigError: One is not.
    """
    missing = [_PACKAGES[name] for name in names if find_spec(_PACKAGES[name]) is None]
    if missing:
        raise ConfigError(f"report_to needs {', '.join(missing)}; run: pip install {' '.join(missing)}")
    for name in names:
        try:
            import_module(_PACKAGES[name])
        except Exception as error:  # noqa: BLE001 - whatever its modules raise where they do not fit together
            raise ConfigError(
                f"report_to: {name} cannot be imported ({first_line(error)}); run: pip install --upgrade "
                f"{_PACKAGES[name]}"
            ) from error


def tracker_arguments(names: Sequence[str], run_name: str) -> dict[str, Any]:
    """Returns the training arguments that say who watches.

    Raises:
        ConfigError: One is not installed.
    """
    check_trackers(names)
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


def explain_faults(trainer: Trainer) -> None:
    """Has what those who watch raise end in an error that names them: a server that is away, a folder, a login."""
    for callback in trainer.callback_handler.callbacks:
        name = type(callback).__name__.removesuffix("Callback").casefold()
        for event in _EVENTS if name in _REMEDIES else ():
            setattr(callback, event, _explained(getattr(callback, event), name))


def _explained(event: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(event)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return event(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            raise ConfigError(
                f"{name} could not watch the training ({first_line(error)}); {_REMEDIES[name]}, or "
                f"leave it out of report_to. What was done so far is kept"
            ) from error

    return told
