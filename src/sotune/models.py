"""Loading models and tokenizers: the one place where weights come into memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sotune.artifacts import sha256_file, sha256_json
from sotune.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelSpec:
    """Which causal LM, and how it is loaded.

    Attributes:
        name: A folder, or the id of a model on the Hub.
        revision: Revision on the Hub; ``None`` is its default branch.
        dtype: Number type of the weights; ``auto`` is the one they are stored in.
        device: ``auto`` (CUDA where there is any), ``cpu``, ``cuda``, ``cuda:1``, …
        trust_remote_code: Whether code that the folder ships may run.
    """

    name: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


def resolve_device(device: str) -> str:
    """Returns a device's name for torch; ``auto`` is CUDA where there is any, else the CPU.

    Raises:
        ConfigError: The name is not a device, or is CUDA where there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but no CUDA device is there; use --device cpu")
    return device


def load_tokenizer(spec: ModelSpec) -> Any:
    """Loads the tokenizer of a model; one without a padding token pads with its end-of-sequence token.

    Raises:
        ConfigError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(spec.name, **_hub_options(spec))
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable("tokenizer", spec, error) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(f"the tokenizer of {spec.name!r} has neither a padding nor an end token; give it one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(spec: ModelSpec) -> Any:
    """Loads a causal LM, in evaluation mode, on its device. Only safetensors weights are read, never pickle.

    Raises:
        ConfigError: It cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    device = resolve_device(spec.device)
    if spec.trust_remote_code:
        warnings.warn(
            f"trust_remote_code is on: Python code that {spec.name!r} ships will run with your rights",
            UserWarning,
            stacklevel=2,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            spec.name, dtype=spec.dtype, use_safetensors=True, **_hub_options(spec)
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable("model", spec, error) from error
    return model.to(device).eval()


def model_fingerprint(spec: ModelSpec) -> str:
    """Returns a hash that changes with the weights, the configuration or the tokenizer of a model.

    A folder is named by the content of its files, a Hub id by the commit that its revision stands for.

    Raises:
        ConfigError: The model cannot be found.
    """
    folder = Path(spec.name)
    if folder.is_dir():
        files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".model"))
        return sha256_json({path.name: sha256_file(path) for path in files})[:16]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(spec.name, **_hub_options(spec))
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable("model", spec, error) from error
    return sha256_json([spec.name, getattr(config, "_commit_hash", None) or spec.revision])[:16]


def _hub_options(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}


def _not_loadable(what: str, spec: ModelSpec, error: Exception) -> ConfigError:
    folder = Path(spec.name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        return ConfigError(
            f"{what} {spec.name!r} has only pickled .bin weights, which can run code when read; "
            f"convert them to safetensors first"
        )
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigError(
        f"{what} {spec.name!r} cannot be loaded: {first_line}. Name a folder that save_pretrained wrote, or a Hub id "
        f"(and check the network, or HF_HUB_OFFLINE)"
    )
