"""The miniature as a world: everything ships with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.miniature import TASKS, model_path
from sotune.monitoring import Monitor


class MiniatureWorld:
    """The made-up language in which harm is decidable; see `World` and docs/miniature.md."""

    name = "miniature"
    title = "The miniature: a made-up language in which harm is decidable"
    licence = "Apache-2.0"
    cite = "docs/miniature.md"
    tasks: Sequence[str] = TASKS
    settings: Mapping[str, Any] = {
        # As in the paper. Other readings tell the miniature's harm perfectly, so no method could be told from another.
        "template": "paper",
        "layer": -1,
        "pooling": "last",
        "max_length": 64,
        "learning_rate": 3e-3,  # a tiny model wants a larger one than Table 4 has
        "per_device_train_batch_size": 16,
        "save_steps": 1000,  # a cell takes seconds
        "dtype": "float32",
        "device": "cpu",
        "judges": "miniature",
        "max_new_tokens": 24,
        "eval_batch_size": 64,
        "n": 2000,
        "n_reference": 200,
        "n_eval": 200,
    }
    demo: Mapping[str, Any] = {
        "methods": ("base", "sft", "random", "probe", "sot", "adaptive", "adaptive + kl_constrained"),
        "datasets": ("miniature-verdict",),
        "seeds": 3,
    }

    def data(self, task: str) -> Mapping[str, Any]:
        """Returns a task, whose rows are generated when they are drawn."""
        return {"miniature": task}

    def model(self) -> Path:
        """Returns the folder of the model that ships with the package."""
        return model_path()

    def prepare(self, monitor: Monitor) -> None:
        """Does nothing: all is there."""
