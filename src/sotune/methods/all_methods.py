"""All methods by name: those of this package, and those that other packages bring as entry points."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint

from sotune.errors import ConfigError
from sotune.methods.combine import combine
from sotune.methods.method import Method
from sotune.plugins import installed, load_plugin
from sotune.settings import DEFAULT_HOLD, RunConfig, make_config, override

GROUP = "sotune.methods"

_FILES = (
    "sft",
    "random_rows",
    "safeinstr",
    "alpagasus",
    "dsir",
    "saft",
    "bds",
    "seal",
    "salora",
    "adaptive",
    "sot",
    "probe",
    "self_trained_probe",
    "tfidf_probe",
    "mean_cosine",
    "one_class",
    "loss_under_safe",
    "guard_filter",
    "larf",
    "datashield",
    "tokenmask",
    "lisa",
    "sbr",
    "replay",
    "proximal",
    "ema",
    "kl",
    "kl_constrained",
    "state_anchor",
    "self_replay",
    "safegrad",
    "resta",
    "safe_lora",
    "safe_delta",
    "oracle",
)
"""In the order of tables: plain fine-tuning, the paper's baselines, sotune's own, later rivals, bounds."""

METHODS: dict[str, Method] = {
    method.name: method for file in _FILES for method in import_module(f"sotune.methods.{file}").METHODS
}
"""Every method of this package by name."""


def method_named(text: str) -> Method:
    """Returns a method by its name, or a combination such as ``adaptive + safeinstr``.

    Raises:
        ConfigError: See `sotune.methods.combine.combine`, or an installed package's method cannot be used.
    """
    named = {name.strip() for name in text.split("+")}
    # Looking through all that is installed takes milliseconds, and a run asks for its method many times.
    others = installed(GROUP) if named - METHODS.keys() else {}
    own = {name: _load(others[name]) for name in named & others.keys() - METHODS.keys()}
    return combine(text, {**METHODS, **own}, others=others)


def method_of(config: RunConfig) -> Method:
    """Returns the method of a run, combined with what holds aligned behavior while it trains.

    Raises:
        ConfigError: See `method_named`, or what shall hold does not train, or something else trains already.
    """
    method = method_named(config.method)
    selects = method.kind == "ours" and method.seams == ("weigh",)
    hold = config.hold if config.hold != "auto" else DEFAULT_HOLD if selects else "none"
    if hold == "none":
        return method
    if method_named(hold).seams != ("train",):
        trainers = ", ".join(name for name, known in METHODS.items() if known.seams == ("train",))
        raise ConfigError(f"hold must be a method that trains ({trainers}), none or auto. Got {hold!r}")
    return method_named(f"{config.method} + {hold}" if method.seams else hold)


def _load(entry: EntryPoint) -> Method:
    found = load_plugin("method", entry)
    if not isinstance(found, Method):
        raise ConfigError(f"{entry.value} must be a sotune.methods.Method. Got a {type(found).__name__}")
    return found


def settle(config: RunConfig) -> RunConfig:
    """Returns the settings of a run with those that its method brings; what was given counts more.

    Raises:
        ConfigError: The method is unknown, or its settings contradict what was given.
    """
    method = method_of(config)
    method.check_settings(config.method_settings)
    if config.hold_drift != RunConfig.model_fields["hold_drift"].default and not method.limits_drift:
        trains = " + ".join(method.at("train")) or "nothing"
        raise ConfigError(
            f"hold_drift is a limit that only {DEFAULT_HOLD} keeps, and it must be left out where it does not hold. "
            f"Got hold_drift={config.hold_drift:g}, and {trains} holds"
        )
    given = config.model_dump(exclude_unset=True)
    return make_config(override(method.preset, given), origin=f"method {method.name!r}")
