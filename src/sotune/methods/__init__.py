"""Methods that keep fine-tuning safe, one file each; every file says what its methods are called and where from."""

from sotune.methods.all_methods import METHODS, method_named, method_of, settle
from sotune.methods.inputs import (
    EditInputs,
    InputRecords,
    Solution,
    SolvedReference,
    Tools,
    TrainInputs,
    Weighing,
    WeighInputs,
)
from sotune.methods.method import Kind, Method, Seam

__all__ = [
    "METHODS",
    "EditInputs",
    "InputRecords",
    "Kind",
    "Method",
    "Seam",
    "Solution",
    "SolvedReference",
    "Tools",
    "TrainInputs",
    "WeighInputs",
    "Weighing",
    "method_named",
    "method_of",
    "settle",
]
