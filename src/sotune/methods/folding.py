"""Changes to a saved LoRA adapter that leave it a plain one: products of low rank, added side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sotune.artifacts import read_json, write_json, write_text
from sotune.errors import ConfigError

_WEIGHTS, _CONFIG, _README = "adapter_model.safetensors", "adapter_config.json", "README.md"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PEFT = "base_model.model."


class LowRank(NamedTuple):
    """An update ``scaling·B A`` of one layer.

    Attributes:
        a: ``[r, d_in]``.
        b: ``[d_out, r]``.
    """

    a: Tensor
    b: Tensor


def load_layers(adapter: Path) -> dict[str, LowRank]:
    """Returns the update of each adapted layer, by the layer's name in PEFT.

    Raises:
        ConfigError: It is not a plain LoRA adapter.
    """
    config = read_json(adapter / _CONFIG) if (adapter / _CONFIG).exists() else {}
    if not config or config.get("use_dora") or config.get("use_rslora"):
        raise ConfigError("the method changes the products of a plain LoRA adapter; set finetuning_type: lora")
    weights = load_file(adapter / _WEIGHTS)
    return {name.removesuffix(_A): LowRank(a, weights[name.removesuffix(_A) + _B])
            for name, a in weights.items() if name.endswith(_A)}  # fmt: skip


def base_name(name: str) -> str:
    """Returns what the base model calls a layer, by its name in PEFT.

    >>> base_name("base_model.model.layers.0.q_proj")
    'layers.0.q_proj'
    """
    return name.removeprefix(_PEFT)


def beside(first: LowRank, second: LowRank) -> LowRank:
    """Returns the sum of two updates as one of the sum of their ranks: ``[B_1 B_2]·[A_1; A_2]``."""
    return LowRank(torch.cat([first.a, second.a]), torch.cat([first.b, second.b], dim=1))


def rewrite(adapter: Path, change: Callable[[str, LowRank], LowRank]) -> None:
    """Replaces the update of each layer of a saved adapter, in place.

    All layers must end up with one rank. ``lora_alpha`` grows as the rank does, so that the scaling stays.

    Args:
        adapter: Its folder.
        change: A layer's name in PEFT and its update to the new update.
    """
    before = load_layers(adapter)
    after: Mapping[str, LowRank] = {name: change(name, update) for name, update in before.items()}
    config = read_json(adapter / _CONFIG)
    rank = {len(update.a) for update in after.values()}.pop()
    tensors = {name + _A: update.a.contiguous() for name, update in after.items()}
    tensors |= {name + _B: update.b.contiguous() for name, update in after.items()}
    partial = adapter / f".{_WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod((adapter / _WEIGHTS).stat().st_mode & 0o777)
    os.replace(partial, adapter / _WEIGHTS)
    write_json(adapter / _CONFIG, {**config, "r": rank, "lora_alpha": config["lora_alpha"] * rank / config["r"]})
    readme = (adapter / _README).read_text(encoding="utf-8")
    write_text(adapter / _README, readme.replace(f"rank {config['r']},", f"rank {rank},"))
