"""Makes the world smol: its model folder, its rows, and the alignment, in about half an hour of CPU time.

``python experiments/smol/align.py [--data DIR]``: DIR holds the public data sets that ``sources.yaml`` lists; once they
were read it may be left out. ``align.yaml`` is the recipe: refusals, help, and harmless prompts that sound harmful
answered as before. Everything is kept as it comes, so that a call that was killed goes on where it stood. Prints how
often the aligned model refuses on prompts held out for it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from data import Row, deal_rows, read_own, read_rows, shortened

from sotune.artifacts import RunFolder, read_json, sha256_file, write_json, write_text
from sotune.errors import ConfigError
from sotune.evaluation import EvalPrompt, generate
from sotune.evaluation.judges.refusal import find_refusal
from sotune.models import ModelSpec, load_adapted, load_causal_lm
from sotune.monitoring import Monitor
from sotune.records import Message, Record
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from sotune.worlds import SmolWorld
from sotune.worlds.packaged_model import SHA256, save_folder
from sotune.worlds.smol_world import ALIGNED, BASE

ANSWERS = "answers.json"
OWN_RECIPE = Path(__file__).with_name("align.yaml")
Recipe = Mapping[str, Any]

_BATCH, _NEW_TOKENS = 64, 32


class Printing:
    """A monitor that prints lines."""

    def stage(self, name: str, status: str) -> None:
        """Prints that a stage begins."""
        print(f"{name}: {status}", flush=True)

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Prints how far some work is."""
        print(f"{label}: {done} of {total}", flush=True)

    def warn(self, message: str) -> None:
        """Prints what the user should know."""
        print(message, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of public data sets; not needed once it was read")
    parser.add_argument("--recipe", type=Path, default=OWN_RECIPE, help="another recipe than align.yaml")
    parser.add_argument("--out", type=Path, help="where an alignment goes that is only tried; default: into the world")
    arguments = parser.parse_args()
    recipe = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    if arguments.out is None:
        figures = make_world(arguments.data, recipe, Printing())
    else:
        run = SmolWorld().run
        figures = align(run.file(BASE), run.file("rows"), arguments.out, recipe, Printing())
    print(json.dumps(figures, indent=1))


def make_world(data: Path | None, recipe: Recipe, monitor: Monitor) -> dict[str, Any]:
    """Makes what is missing of the world, and returns the figures of its alignment."""
    run = SmolWorld().run
    rows, base = prepare(data, monitor)
    with run.lock():
        if not run.is_current(ALIGNED, alignment_key(rows, recipe)):
            run.discard(ALIGNED)
            align(base, run.file("rows"), run.file(ALIGNED), recipe, monitor)
            commit_alignment(run, alignment_key(rows, recipe))
    figures: dict[str, Any] = read_json(run.file(ALIGNED) / "alignment.json")
    return figures


def prepare(data: Path | None, monitor: Monitor) -> tuple[dict[str, str], Path]:
    """Makes the rows and the model before alignment, and returns the digests of the rows and the model's folder."""
    world = SmolWorld()
    with world.run.lock():
        return _deal(world.run, data, monitor), world.base(monitor)


def alignment_key(rows: Mapping[str, str], recipe: Recipe) -> dict[str, Any]:
    """Returns what the alignment follows from, given the digests of the rows."""
    return {"base": SHA256, "align.jsonl": rows["rows/align.jsonl"], "recipe": recipe}


def commit_alignment(run: RunFolder, key: Mapping[str, Any]) -> None:
    """Says that the alignment is whole."""
    files = ("alignment.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json")
    run.commit(ALIGNED, key, [f"{ALIGNED}/{name}" for name in files])


def _deal(run: RunFolder, data: Path | None, monitor: Monitor) -> dict[str, str]:
    """Writes the rows if their folder is named, else takes those that are there; returns their digests."""
    if data is not None:
        licences = {f"{source['title']}: {source['licence']}": None for source in read_own("sources.yaml").values()}
        monitor.warn(f"licences of the data sets that are read: {'; '.join(licences)}")
        names = []
        for name, rows in deal_rows(data).items():
            names.append(f"rows/{name}.jsonl")
            write_text(run.file(names[-1]), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        run.commit("rows", {}, names)
    elif not run.manifest_path("rows").exists():
        raise ConfigError("no rows were dealt yet; name the folder of public data sets with --data")
    return run.digests("rows")


def align(base: Path, rows: Path, out: Path, recipe: Recipe, monitor: Monitor) -> dict[str, Any]:
    """Trains the adapter, merges it into a model of its own and measures that on prompts held out for it.

    Args:
        base: Folder of the model.
        rows: Folder with ``align.jsonl`` and ``align_check.jsonl``.
        out: Gets ``training/``, with the adapter, ``model/`` and ``alignment.json``.
        recipe: As in align.yaml.
        monitor: Receives progress.

    Returns:
        Refusal of harmful prompts, over-refusal of look-alikes, both by source too, and what training took.
    """
    spec, settings = what_trains(base, recipe)
    taught = read_rows(rows / "align.jsonl")
    own = own_answers(taught, spec, settings, out / ANSWERS, monitor)
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


def what_trains(base: Path, recipe: Recipe) -> tuple[ModelSpec, TrainingSettings]:
    """Returns the model before alignment and the settings of its training."""
    return ModelSpec(str(base), dtype=recipe["dtype"]), TrainingSettings(**recipe["training"])


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


def own_answers(
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


def _records(taught: Sequence[Row], own: Mapping[str, str], recipe: Recipe) -> list[Record]:
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


if __name__ == "__main__":
    main()
