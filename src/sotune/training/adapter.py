"""The adapter folder that training hands over: PEFT's format, free of pickles, local paths and run-to-run noise."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from sotune.artifacts import read_json, write_json, write_text
from sotune.models import ModelSpec, load_config
from sotune.rendering import PAPER_CHAT_TEMPLATE, Renderer
from sotune.run_files import CARD, CARD_FIGURES
from sotune.settings import TrainingSettings
from sotune.wording import counted

_README = """---
{metadata}---
# {title} {name}

Fine-tuned with sotune on {rows}, each with its own weight in the loss: template `{template}`, {steps},
{rank}seed {seed}.

## Use

```python
{load}
turns = [{{"role": "user", "content": "..."}}]
options = {{"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True{options}}}
inputs = tokenizer.apply_chat_template(turns, **options)
answer = model.generate(**inputs, do_sample=False{stop})
```

The tokenizer's chat template is the one that the rows were trained in.{fits}

{figures}
## Intended use and limits

It is meant for the task of the rows that it was trained on, asked in this template. What the base model must not be
used for, it must not be used for either. Figures hold for prompts like those that were asked, and what is promised of
the rows for harm like the run's harmful reference: for harm of another kind nothing is known. It may refuse more than
the base model, and it may be wrong.
"""

_LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{name}"), "path/of/this/folder")"""

_LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")"""

_FITS = """ The adapter fits the base model that it was
trained on and no other{revision}."""


def save_adapter(
    model: Any,
    folder: Path,
    *,
    renderer: Renderer,
    base: ModelSpec,
    settings: TrainingSettings,
    n_rows: int,
    n_steps: int,
) -> None:
    """Writes ``adapter_model.safetensors``, ``adapter_config.json``, the tokenizer with its template, ``README.md``.

    The folder appears whole or not at all, and its bytes depend on the adapter alone. The configuration names the
    base model only if it is on a hub: a path would tell about this machine and be wrong on the next one, and a bare
    folder name could be taken for a hub id, so that loaders would fetch a stranger's model. Of a model all of whose
    weights were trained, the folder holds the whole model, in the number type of its base model.

    Args:
        model: The trained model.
        folder: Where to; replaced when it exists.
        renderer: The tokenizer, and the template that the rows were trained in.
        base: The base model.
        settings: How the adapter was trained.
        n_rows: Rows that it was trained on.
        n_steps: Optimizer steps that it took.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    whole = not isinstance(model, PeftModel)
    if whole:
        _save_whole(model, partial, base)
    else:
        _save_adapter_weights(model, partial, base)
    _save_tokenizer(renderer, partial)
    write_text(partial / CARD, _card(renderer, base, settings, whole=whole, n_rows=n_rows, n_steps=n_steps))
    allowed = (partial / CARD).stat().st_mode & 0o777
    for path in partial.iterdir():
        path.chmod(allowed)  # some writers keep what they write from everyone else
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _card(
    renderer: Renderer, base: ModelSpec, settings: TrainingSettings, *, whole: bool, n_rows: int, n_steps: int
) -> str:
    """Returns the adapter's card, with metadata as the Hub reads it, before anything is measured."""
    end = renderer.end_of_turn_id
    name = base.folder.name if base.folder else base.name
    revision = f", at revision `{base.revision}`" if base.revision else ""
    metadata = {
        **({} if base.folder else {"base_model": base.name}),
        "library_name": "transformers" if whole else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["sotune", "safety", *([] if whole else ["lora"])],
    }
    return _README.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        figures="Nothing was measured yet.\n".join(CARD_FIGURES),
        title="Tuned from" if whole else "LoRA adapter for",
        name=name,
        load=_LOAD_MODEL if whole else _LOAD_ADAPTER.format(name=name),
        fits="" if whole else _FITS.format(revision=revision),
        rank="" if whole else f"rank {settings.r}, ",
        rows=counted(n_rows, "row"),
        steps=counted(n_steps, "step"),
        template=renderer.template,
        options="".join(f", {json.dumps(name)}: {value!r}" for name, value in renderer.options.items()),
        # The base model may know another token as the end.
        stop="" if end in (None, renderer.tokenizer.eos_token_id) else f", eos_token_id={end}",
        seed=settings.seed,
    )


def name_local_base(folder: Path, base: ModelSpec) -> None:
    """Writes into an adapter's configuration where its base model lies, for loaders that look there for it.

    For a folder that stays on this machine: elsewhere the path is wrong, and it tells about this machine.
    """
    config = folder / "adapter_config.json"
    if base.folder is not None and config.exists():
        write_json(config, {**read_json(config), "base_model_name_or_path": str(base.folder.resolve())})


def _save_adapter_weights(model: PeftModel, folder: Path, base: ModelSpec) -> None:
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(folder / "adapter_config.json", _config(model, base))


def _save_whole(model: Any, folder: Path, base: ModelSpec) -> None:
    model.config.get_text_config().use_cache = True
    model.to(load_config(base).dtype or model.dtype).save_pretrained(folder)


def _save_tokenizer(renderer: Renderer, folder: Path) -> None:
    """Saves the tokenizer with the one template that was used, as its chat template whatever it was."""
    tokenizer = copy.copy(renderer.tokenizer)
    if renderer.template == "paper":
        begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = f"{'{{ bos_token }}' if begins else ''}{PAPER_CHAT_TEMPLATE}"
    elif renderer.chat_template is not None:
        tokenizer.chat_template = renderer.tokenizer.chat_template[renderer.chat_template]
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    # Where a tokenizer was loaded from is of this machine, and nobody else's matter.
    local = ("name_or_path", "local_files_only", "is_local")
    write_json(config, {name: value for name, value in read_json(config).items() if name not in local})


def _config(model: PeftModel, base: ModelSpec) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    # PEFT keeps names in sets, whose order changes from one process to the next.
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    name = None if base.folder else base.name
    return {**config, "base_model_name_or_path": name, "revision": base.revision, "inference_mode": True}
