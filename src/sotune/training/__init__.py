"""Fine-tuning with one loss weight a row (Eq. 8): LoRA from records, or a Trainer for a script of one's own.

What needs the Trainer of transformers is imported when it is first used: weighing does without.
"""

from typing import TYPE_CHECKING

from sotune.lazy_names import offers

if TYPE_CHECKING:
    from sotune.training.adapter import name_local_base
    from sotune.training.bilevel import BilevelSettings, train_bilevel
    from sotune.training.finetune import fine_tune, hand_over
    from sotune.training.loss import compute_weighted_loss
    from sotune.training.progress import TrainStep
    from sotune.training.train_result import TrainResult
    from sotune.training.trainer import WeightedTrainer
    from sotune.training.training_rows import WeightedCollator

__all__ = [
    "BilevelSettings",
    "TrainResult",
    "TrainStep",
    "WeightedCollator",
    "WeightedTrainer",
    "compute_weighted_loss",
    "fine_tune",
    "hand_over",
    "name_local_base",
    "train_bilevel",
]

__getattr__ = offers(
    __name__,
    {
        "adapter": ("name_local_base",),
        "bilevel": ("BilevelSettings", "train_bilevel"),
        "finetune": ("fine_tune", "hand_over"),
        "loss": ("compute_weighted_loss",),
        "progress": ("TrainStep",),
        "train_result": ("TrainResult",),
        "trainer": ("WeightedTrainer",),
        "training_rows": ("WeightedCollator",),
    },
)
