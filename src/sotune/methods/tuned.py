"""Models that a method tunes on the way, with the settings of the fine-tuning itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sotune import processes, training
from sotune.methods.inputs import Tools
from sotune.records import Record


def tune_on(records: Sequence[Record], tools: Tools, *, name: str) -> Path:
    """Tunes the model on some rows, all alike, for as many steps as the fine-tuning takes; returns the adapter.

    Args:
        records: The rows, such as one of the references.
        tools: Model, settings and the folder that the adapter goes into.
        name: Names the adapter's folder among those of one method.

    Raises:
        DataError: No row can be trained on.
        SotuneError: Training diverged.
    """
    folder = tools.work_dir / f"tuned-{name}"
    equal = dict.fromkeys((record.id for record in records), 1.0)

    def tune() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        return training.fine_tune(
            records, equal, model=tools.model, settings=tools.training, output_dir=folder, resume=False
        ).adapter

    return processes.on_main(tune)
