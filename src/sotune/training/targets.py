"""Which linear layers of a model are adapted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from sotune.errors import ConfigError
from sotune.settings.train import PAPER_TARGET_MODULES


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """What PEFT needs to know to place its adapters.

    Attributes:
        target_modules: Names that module names end in, or a pattern of whole module names.
        fan_in_fan_out: Whether the layers keep their weight transposed, as GPT-2's do.
        layers: The layers themselves.
    """

    target_modules: list[str] | str
    fan_in_fan_out: bool
    layers: list[Any]


def resolve_target_modules(model: Any, requested: tuple[str, ...]) -> LoraTargets:
    """Finds the layers of a model that ``requested`` means.

    Only the language model is adapted: of a multimodal model, the layers of its text decoder. A model that lacks the
    paper's layers, when these are what is asked for, gets those that PEFT names for its architecture.

    Args:
        model: A causal language model of transformers.
        requested: Last parts of module names, such as ``q_proj``.

    Raises:
        ConfigError: The model lacks a layer; the message names those that it has.
    """
    layers = dict(_linear_layers(model))
    decoder = _decoder_name(model)
    own = [name for name in layers if name.startswith(f"{decoder}.")]
    requested, chosen = _choice(model, own, requested)
    # Names alone would reach layers of the same name outside the decoder, such as those of a vision tower.
    ambiguous = len(_named(layers, requested)) > len(chosen)
    pattern = rf"{re.escape(decoder)}\.(.*\.)?({'|'.join(map(re.escape, sorted(requested)))})"
    return LoraTargets(
        target_modules=pattern if ambiguous else sorted(requested),
        fan_in_fan_out=isinstance(layers[chosen[0]], Conv1D),
        layers=[layers[name] for name in chosen],
    )


def _choice(model: Any, own: list[str], requested: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """Returns the names that are meant after all, and the layers of the decoder that bear them."""
    chosen = _named(own, requested)
    if not chosen and requested == PAPER_TARGET_MODULES:
        requested = _peft_choice(model)
        chosen = _named(own, requested)
    if not chosen:
        candidates = ", ".join(sorted({_leaf(name) for name in own}))
        raise ConfigError(
            f"the model, of type {model.config.model_type!r}, lacks some of the target_modules "
            f"{', '.join(requested)}; choose among its linear layers: {candidates}"
        )
    return requested, chosen


def _linear_layers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield name, module


def _decoder_name(model: Any) -> str:
    decoder = model.get_decoder()
    names: list[str] = [name for name, module in model.named_modules() if module is decoder]
    return names[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _named(layers: Iterable[str], requested: tuple[str, ...]) -> list[str]:
    """Returns the layers whose names end in a requested name; none at all when any requested name has none."""
    found = {want: [name for name in layers if name.endswith(f".{want}")] for want in requested}
    return [name for names in found.values() for name in names] if all(found.values()) else []


def _peft_choice(model: Any) -> tuple[str, ...]:
    choices = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    choice = choices.get(model.config.get_text_config().model_type, PAPER_TARGET_MODULES)
    # PEFT has patterns of whole names for models whose decoder must be told from other parts; here it is known.
    return PAPER_TARGET_MODULES if isinstance(choice, str) else tuple(choice)
