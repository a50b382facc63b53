"""Methods that keep fine-tuning safe, one file each, in one registry."""

from sotune.methods.ablations import PULL_ONLY, PUSH_ONLY, SOT_ALL, SOT_UNIFORM
from sotune.methods.adaptive import ADAPTIVE
from sotune.methods.adaptive_auto import ADAPTIVE_AUTO
from sotune.methods.alpagasus import ALPAGASUS
from sotune.methods.base import (
    EditInputs,
    InputRecords,
    Method,
    Tools,
    TrainInputs,
    WeighInputs,
)
from sotune.methods.bds import BDS
from sotune.methods.combine import combine
from sotune.methods.datashield import DATASHIELD
from sotune.methods.dsir import DSIR, DSIR_MEAN
from sotune.methods.guard import GUARD
from sotune.methods.kl_anchor import KL
from sotune.methods.larf import LARF
from sotune.methods.lisa import LISA
from sotune.methods.loss_under_safe import LOSS_UNDER_SAFE
from sotune.methods.low_rate import LOW_RATE
from sotune.methods.mean_cosine import MEAN_COSINE
from sotune.methods.one_class import ONE_CLASS
from sotune.methods.oracle import ORACLE, ORACLE_K
from sotune.methods.probe import PROBE
from sotune.methods.random_rows import RANDOM
from sotune.methods.resta import RESTA
from sotune.methods.run import MethodRun, Selection, run_method, select_by
from sotune.methods.safeinstr import SAFEINSTR
from sotune.methods.saft import SAFT, SAFT_CENTERED
from sotune.methods.salora import SALORA
from sotune.methods.sbr import SBR
from sotune.methods.seal import SEAL, SEAL_RELEASED
from sotune.methods.self_trained_probe import SELF_TRAINED_PROBE
from sotune.methods.sft import SFT
from sotune.methods.sot import KERNEL_DENSITY_RATIO, SOT, SOT_POTENTIALS
from sotune.methods.tfidf_probe import TFIDF_PROBE
from sotune.methods.tokenmask import TOKENMASK

METHODS: dict[str, Method] = {
    # the paper's baselines
    "sft": SFT,
    "random": RANDOM,
    "safeinstr": SAFEINSTR,
    "alpagasus": ALPAGASUS,
    "dsir": DSIR,
    "saft": SAFT,
    "bds": BDS,
    "seal": SEAL,
    "salora": SALORA,
    # sotune's own
    "sot": SOT,
    "adaptive": ADAPTIVE,
    "adaptive_auto": ADAPTIVE_AUTO,
    # rivals that papers leave out
    "probe": PROBE,
    "self_trained_probe": SELF_TRAINED_PROBE,
    "tfidf_probe": TFIDF_PROBE,
    "mean_cosine": MEAN_COSINE,
    "one_class": ONE_CLASS,
    "kernel_density_ratio": KERNEL_DENSITY_RATIO,
    "loss_under_safe": LOSS_UNDER_SAFE,
    "guard": GUARD,
    # later ideas
    "larf": LARF,
    "datashield": DATASHIELD,
    "tokenmask": TOKENMASK,
    "lisa": LISA,
    "sbr": SBR,
    "resta": RESTA,
    # what holds a model where it was
    "kl": KL,
    "low_rate": LOW_RATE,
    # bounds
    "oracle": ORACLE,
    "oracle_k": ORACLE_K,
    # variants and ablations
    "dsir_mean": DSIR_MEAN,
    "saft_centered": SAFT_CENTERED,
    "seal_released": SEAL_RELEASED,
    "sot_potentials": SOT_POTENTIALS,
    "pull_only": PULL_ONLY,
    "push_only": PUSH_ONLY,
    "sot_uniform": SOT_UNIFORM,
    "sot_all": SOT_ALL,
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
