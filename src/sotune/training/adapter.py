"""The adapter folder that training hands over: PEFT's format, free of pickles, local paths and run-to-run noise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from sotune.artifacts import write_json, write_text

_README = """# LoRA adapter for {name}

Fine-tuned with sotune on {n_rows} rows, each with its own weight in the loss: template `{template}`, {n_steps} steps,
rank {r}, seed {seed}.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{name}"), "path/of/this/folder")
```

It fits the base model that it was trained on and no other{revision}.
"""


def save_adapter(
    model: Any, folder: Path, *, base_name: str, base_is_local: bool, revision: str | None, **facts: Any
) -> None:
    """Writes ``adapter_model.safetensors``, ``adapter_config.json`` and a ``README.md``.

    The folder appears whole or not at all, and its bytes depend on the adapter alone. The base model of an adapter is
    named only if it is on a hub: a path would tell about the machine and be wrong on the next one, and a bare folder
    name could be taken for a hub id, so that loaders would fetch a stranger's model.

    Args:
        model: The trained `peft.PeftModel`.
        folder: Where to; replaced when it exists.
        base_name: Hub id of the base model, or the name of its folder.
        base_is_local: Whether it is a folder.
        revision: Revision of the base model on the hub.
        **facts: What the README tells: ``n_rows``, ``n_steps``, ``template``, ``r``, ``seed``.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in weights.items()},
        partial / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(partial / "adapter_config.json", _config(model, None if base_is_local else base_name, revision))
    of_revision = f", at revision `{revision}`" if revision else ""
    write_text(partial / "README.md", _README.format(name=base_name, revision=of_revision, **facts))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _config(model: PeftModel, base: str | None, revision: str | None) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    # PEFT keeps names in sets, whose order changes from one process to the next.
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    return {**config, "base_model_name_or_path": base, "revision": revision, "inference_mode": True}
