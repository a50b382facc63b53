"""Fine-tuning with one loss weight a row (Eq. 8): LoRA from records, or a Trainer for a script of one's own."""

from sotune.training.data import WeightedCollator
from sotune.training.finetune import TrainResult, fine_tune
from sotune.training.loss import compute_weighted_loss
from sotune.training.progress import TrainStep
from sotune.training.settings import TrainSettings
from sotune.training.trainer import WeightedTrainer

__all__ = [
    "TrainResult",
    "TrainSettings",
    "TrainStep",
    "WeightedCollator",
    "WeightedTrainer",
    "compute_weighted_loss",
    "fine_tune",
]
