"""What fine-tuning hands over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What fine-tuning left behind.

    Attributes:
        adapter: Folder of the adapter, in PEFT's format.
        log: JSONL file with step, loss, learning rate and gradient norm of each step.
        n_rows: Rows trained on.
        dropped: Why a record was not trained on, by its id.
        n_truncated: Rows that lost tokens to ``max_length``.
        n_lossy: Rows of which the template left out a part that was to be learned.
        n_steps: Optimizer steps, those before a resumption too.
        final_loss: Mean loss over the last tenth of the steps; a single step of few rows would be noise.
        seconds: How long this call took, without what an earlier, interrupted one did.
        figures: What a change to the training step says of the whole, such as the drift that it leaves.
    """

    adapter: Path
    log: Path
    n_rows: int
    dropped: Mapping[str, str]
    n_truncated: int
    n_lossy: int
    n_steps: int
    final_loss: float
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_dropped(self) -> int:
        """How many records were not trained on."""
        return len(self.dropped)
