"""Fine-tuning with one loss weight a row (Eq. 8): LoRA from records, or a Trainer for a script of one's own."""

from sotune.training.finetune import TrainResult, fine_tune
from sotune.training.loss import compute_weighted_loss
from sotune.training.progress import TrainStep
from sotune.training.trainer import WeightedTrainer
from sotune.training.training_rows import WeightedCollator

__all__ = [
    "TrainResult",
    "TrainStep",
    "WeightedCollator",
    "WeightedTrainer",
    "compute_weighted_loss",
    "fine_tune",
]
