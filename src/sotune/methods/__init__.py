"""Methods that weigh a fine-tuning set, one file each, in one registry."""

from sotune.methods.adaptive import ADAPTIVE
from sotune.methods.base import Method, WeighInputs
from sotune.methods.probe import PROBE
from sotune.methods.random_rows import RANDOM
from sotune.methods.sft import SFT
from sotune.methods.sot import SOT, SOT_POTENTIALS

METHODS: dict[str, Method] = {
    "sft": SFT,
    "random": RANDOM,
    "probe": PROBE,
    "adaptive": ADAPTIVE,
    "sot": SOT,
    "sot_potentials": SOT_POTENTIALS,
}
"""Every method by name."""

__all__ = ["METHODS", "Method", "WeighInputs"]
