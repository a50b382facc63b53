"""Methods that weigh a fine-tuning set, one file each, in one registry."""

from sotune.methods.adaptive import ADAPTIVE
from sotune.methods.adaptive_auto import ADAPTIVE_AUTO
from sotune.methods.base import InputRecords, Method, WeighInputs
from sotune.methods.mean_cosine import MEAN_COSINE
from sotune.methods.one_class import ONE_CLASS
from sotune.methods.probe import PROBE
from sotune.methods.random_rows import RANDOM
from sotune.methods.self_trained_probe import SELF_TRAINED_PROBE
from sotune.methods.sft import SFT
from sotune.methods.sot import KERNEL_DENSITY_RATIO, SOT, SOT_POTENTIALS
from sotune.methods.tfidf_probe import TFIDF_PROBE

METHODS: dict[str, Method] = {
    "sft": SFT,
    "random": RANDOM,
    "probe": PROBE,
    "adaptive": ADAPTIVE,
    "adaptive_auto": ADAPTIVE_AUTO,
    "self_trained_probe": SELF_TRAINED_PROBE,
    "tfidf_probe": TFIDF_PROBE,
    "mean_cosine": MEAN_COSINE,
    "one_class": ONE_CLASS,
    "kernel_density_ratio": KERNEL_DENSITY_RATIO,
    "sot": SOT,
    "sot_potentials": SOT_POTENTIALS,
}
"""Every method by name."""

__all__ = ["METHODS", "InputRecords", "Method", "WeighInputs"]
