"""Checkpoints of an unfinished training run: which may be resumed, and which must go.

Trainer writes a checkpoint file by file, so a killed run leaves half of one behind; and some of its files are pickles,
which must be loaded from nowhere but a run of one's own. Both are settled by a marker, written into a checkpoint when
Trainer is done with it, that holds the digest of everything the run depends on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sotune.artifacts import read_json, write_json

_MARKER, _TENSORS = "complete.json", "change.safetensors"


class Checkpoints:
    """The work folder of one training run.

    Args:
        folder: Where Trainer puts its checkpoints; made when needed.
        key: Digest of all that the run's result depends on. A checkpoint of another key is never resumed.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._key = key

    def latest(self) -> Path | None:
        """Returns the newest checkpoint that is complete and belongs to this run, if there is one."""
        complete = [path for path in self._all() if self._is_complete(path)]
        return max(complete, key=_step, default=None)

    def keep_only(self, checkpoint: Path | None) -> None:
        """Removes all checkpoints but one: the incomplete, the outdated, and those of another run."""
        for path in self._all():
            if path != checkpoint:
                shutil.rmtree(path)

    def mark_complete(self, step: int, state: Mapping[str, float | Tensor]) -> Path:
        """Declares the checkpoint of a step complete and returns it.

        Args:
            step: The step.
            state: What a change to the training step remembers, which Trainer does not know of.
        """
        checkpoint = self.folder / f"checkpoint-{step}"
        tensors = {name: value.detach().cpu() for name, value in state.items() if isinstance(value, Tensor)}
        save_file(tensors, checkpoint / _TENSORS)
        numbers = {name: value for name, value in state.items() if name not in tensors}
        write_json(checkpoint / _MARKER, {"key": self._key, "state": numbers})
        return checkpoint

    def state(self, checkpoint: Path) -> Mapping[str, Any]:
        """Returns what a complete checkpoint holds of a change to the training step."""
        return {**read_json(checkpoint / _MARKER)["state"], **load_file(checkpoint / _TENSORS)}

    def remove(self) -> None:
        """Removes the work folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]

    def _is_complete(self, checkpoint: Path) -> bool:
        marker = checkpoint / _MARKER
        return marker.exists() and read_json(marker).get("key") == self._key


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
