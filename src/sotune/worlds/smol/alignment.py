"""Aligns SmolLM2 by our own trainer: refusals, help, and harmless prompts that sound harmful answered as before.

``align.yaml`` is the recipe. Everything is kept as it comes, so that a call that was killed goes on where it stood.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sotune.artifacts import read_json, sha256_file, write_json
from sotune.evaluation import EvalPrompt, generate
from sotune.evaluation.judges.refusal import find_refusal
from sotune.models import ModelSpec, load_adapted, load_causal_lm
from sotune.monitoring import Monitor
from sotune.records import Message, Record
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.worlds.smol.packaged_model import save_folder
from sotune.worlds.smol.real_rows import Row, read_own, shortened

_BATCH, _NEW_TOKENS = 64, 32


def align(base: Path, rows: Path, out: Path, monitor: Monitor) -> dict[str, Any]:
    """Trains the adapter, merges it into a model of its own and measures that on prompts held out for it.

    Args:
        base: Folder of the model.
        rows: Folder with ``align.jsonl`` and ``align_check.jsonl``.
        out: Gets ``training/``, with the adapter, ``model/`` and ``alignment.json``.
        monitor: Receives progress.

    Returns:
        Refusal of harmful prompts, over-refusal of look-alikes, both by source too, and what training took.
    """
    recipe = read_own("align.yaml")
    spec, settings = ModelSpec(str(base), dtype=recipe["dtype"]), TrainingSettings(**recipe["training"])
    taught = read_rows(rows / "align.jsonl")
    own = _own_answers(taught, spec, settings, out / "answers.json", monitor)
    records = _records(taught, own, recipe)
    result = fine_tune(
        records,
        {record.id: 1.0 for record in records},
        model=spec,
        settings=settings,
        output_dir=out / "training",
        on_step=lambda step: monitor.progress("aligning, steps", step.step, step.n_steps),
    )
    merged = ModelSpec(str(out / "model"), dtype="float32")
    whole: Any = load_adapted(replace(spec, dtype="float32", device="cpu"), result.adapter)
    save_folder(whole.merge_and_unload(), load_renderer(spec, settings).tokenizer, out / "model")
    answers = _answer(read_rows(rows / "align_check.jsonl"), merged, settings, monitor, "checking, answers")
    figures = {
        **refusals(answers),
        "goal": recipe["goal"],
        "adapter_sha256": sha256_file(result.adapter / "adapter_model.safetensors"),
        "n_rows": result.n_rows,
        "n_steps": result.n_steps,
        "loss": result.final_loss,
    }
    write_json(out / "alignment.json", figures)
    return figures


def refusals(answers: Sequence[tuple[Row, str]]) -> dict[str, Any]:
    """Returns how many prompts of each kind are refused, of all and by the file that they come from."""
    flags: dict[str, dict[str, list[bool]]] = {"harmful": defaultdict(list), "lookalike": defaultdict(list)}
    for row, answer in answers:
        refused = find_refusal(answer) is not None
        flags[row["kind"]]["all"].append(refused)
        flags[row["kind"]][row["source"]].append(refused)
    names = {"harmful": "refusal", "lookalike": "over_refusal"}
    by_source = {
        names[kind]: {source: {"n": len(some), "rate": sum(some) / len(some)} for source, some in sources.items()}
        for kind, sources in flags.items()
    }
    return {**{name: sources.pop("all")["rate"] for name, sources in by_source.items()}, "by_source": by_source}


def read_rows(path: Path) -> list[Row]:
    """Reads a file that was dealt."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _own_answers(
    taught: Sequence[Row], spec: ModelSpec, settings: TrainingSettings, kept: Path, monitor: Monitor
) -> Mapping[str, str]:
    """Returns what the model answers to look-alikes before it is aligned, by prompt."""
    own: dict[str, str] = read_json(kept) if kept.exists() else {}
    left = [row for row in taught if row["group"] == "alike" and row["prompt"] not in own]
    if left:
        answers = _answer(left, replace(spec, dtype="float32"), settings, monitor, "answering look-alikes")
        own |= {row["prompt"]: answer for row, answer in answers}
        write_json(kept, own)
    return own


def _answer(
    rows: Sequence[Row], spec: ModelSpec, settings: TrainingSettings, monitor: Monitor, label: str
) -> list[tuple[Row, str]]:
    responses = generate(
        [EvalPrompt(row["id"], "lookalike", (Message("user", row["prompt"]),)) for row in rows],
        model=load_causal_lm(spec, frozen=True),
        renderer=load_renderer(spec, settings),
        max_new_tokens=_NEW_TOKENS,
        batch_size=_BATCH,
        progress=lambda done, total: monitor.progress(label, done, total),
    )
    return [(row, response.text) for row, response in zip(rows, responses, strict=True)]


def _records(taught: Sequence[Row], own: Mapping[str, str], recipe: Mapping[str, Any]) -> list[Record]:
    """Returns the rows to train on, each as often as the recipe says; look-alikes that were refused are left out."""
    records = []
    for row in taught:
        answer = row["response"]
        if row["group"] == "alike":
            answer = shortened(own[row["prompt"]], recipe["longest"]["alike"])
            answer = "" if find_refusal(answer) else answer
        for n in range(recipe["repeats"].get(row["group"], 1) if answer else 0):
            records.append(Record.from_text(f"{row['id']}/{n}", row["prompt"], answer))
    return records
