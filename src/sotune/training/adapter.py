"""The adapter folder that training hands over: PEFT's format, free of pickles, local paths and run-to-run noise."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from sotune.artifacts import write_json, write_text
from sotune.models import ModelSpec
from sotune.settings import TrainingSettings

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
    model: PeftModel, folder: Path, *, base: ModelSpec, settings: TrainingSettings, n_rows: int, n_steps: int
) -> None:
    """Writes ``adapter_model.safetensors``, ``adapter_config.json`` and a ``README.md``.

    The folder appears whole or not at all, and its bytes depend on the adapter alone. The configuration names the
    base model only if it is on a hub: a path would tell about this machine and be wrong on the next one, and a bare
    folder name could be taken for a hub id, so that loaders would fetch a stranger's model.

    Args:
        model: The trained model.
        folder: Where to; replaced when it exists.
        base: The base model.
        settings: How the adapter was trained.
        n_rows: Rows that it was trained on.
        n_steps: Optimizer steps that it took.
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
    write_json(partial / "adapter_config.json", _config(model, base))
    readme = _README.format(
        name=base.folder.name if base.folder else base.name,
        revision=f", at revision `{base.revision}`" if base.revision else "",
        n_rows=n_rows,
        n_steps=n_steps,
        template=settings.template,
        r=settings.r,
        seed=settings.seed,
    )
    write_text(partial / "README.md", readme)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _config(model: PeftModel, base: ModelSpec) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    # PEFT keeps names in sets, whose order changes from one process to the next.
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    name = None if base.folder else base.name
    return {**config, "base_model_name_or_path": name, "revision": base.revision, "inference_mode": True}
