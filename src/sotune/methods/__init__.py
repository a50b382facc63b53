"""Methods that keep fine-tuning safe, one file each; every file says what its methods are called and where from."""

from sotune.methods.method import (
    EditInputs,
    InputRecords,
    Kind,
    Method,
    Seam,
    Solution,
    Tools,
    TrainInputs,
    Weighing,
    WeighInputs,
)
from sotune.methods.registry import METHODS, method_named, settle

__all__ = [
    "METHODS",
    "EditInputs",
    "InputRecords",
    "Kind",
    "Method",
    "Seam",
    "Solution",
    "Tools",
    "TrainInputs",
    "WeighInputs",
    "Weighing",
    "method_named",
    "settle",
]
