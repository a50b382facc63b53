"""Methods that keep fine-tuning safe, one file each, in one registry."""

from sotune.methods.adaptive import ADAPTIVE
from sotune.methods.base import (
    EditInputs,
    InputRecords,
    Method,
    Tools,
    TrainInputs,
    WeighInputs,
)
from sotune.methods.combine import combine
from sotune.methods.mean_cosine import MEAN_COSINE
from sotune.methods.one_class import ONE_CLASS
from sotune.methods.oracle import ORACLE, ORACLE_K
from sotune.methods.probe import PROBE
from sotune.methods.random_rows import RANDOM
from sotune.methods.run import MethodRun, Selection, run_method, select_by
from sotune.methods.self_trained_probe import SELF_TRAINED_PROBE
from sotune.methods.sft import SFT
from sotune.methods.sot import KERNEL_DENSITY_RATIO, SOT, SOT_POTENTIALS
from sotune.methods.tfidf_probe import TFIDF_PROBE

METHODS: dict[str, Method] = {
    "sft": SFT,
    "random": RANDOM,
    "probe": PROBE,
    "adaptive": ADAPTIVE,
    "self_trained_probe": SELF_TRAINED_PROBE,
    "tfidf_probe": TFIDF_PROBE,
    "mean_cosine": MEAN_COSINE,
    "one_class": ONE_CLASS,
    "kernel_density_ratio": KERNEL_DENSITY_RATIO,
    "sot": SOT,
    "sot_potentials": SOT_POTENTIALS,
    "oracle": ORACLE,
    "oracle_k": ORACLE_K,
}
"""Every method by name."""


def method_named(text: str) -> Method:
    """Returns a method by its name, or a combination such as ``sot + safeinstr``.

    Raises:
        ConfigError: See `sotune.methods.combine.combine`.
    """
    return combine(text, METHODS)


__all__ = [
    "METHODS",
    "EditInputs",
    "InputRecords",
    "Method",
    "MethodRun",
    "Selection",
    "Tools",
    "TrainInputs",
    "WeighInputs",
    "method_named",
    "run_method",
    "select_by",
]
