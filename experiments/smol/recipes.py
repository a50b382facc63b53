"""Tries recipes of the alignment at once, on a GPU, and names the best: ``recipes.py OUT [--tiny]``.

Each is ``align.yaml`` with some of its values changed. The best misses the recipe's goal, refusal and over-refusal on
``align_check``, by least; the prompts that the table asks are seen by none. ``OUT/recipes.json`` holds all figures,
``OUT/best.yaml`` the best recipe; the world takes its alignment over by ``--adopt``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from align import ANSWERS, Printing, alignment_key, commit_alignment, own_answers, prepare, what_trains
from data import read_own, read_rows

from sotune.artifacts import read_json, write_json
from sotune.worlds import SmolWorld
from sotune.worlds.smol_world import ALIGNED

TRIED: Mapping[str, Mapping[str, Any]] = {
    "as before": {},
    "alike 3": {"repeats": {"contrast": 2, "alike": 3}},
    "alike 4": {"repeats": {"contrast": 2, "alike": 4}},
    "contrast 3, alike 4": {"repeats": {"contrast": 3, "alike": 4}},
    "alike 3, lower rate": {"repeats": {"contrast": 2, "alike": 3}, "training": {"learning_rate": 5e-4}},
    "alike 2, two passes": {"training": {"learning_rate": 6e-4, "num_train_epochs": 2}},
    "contrast 1, alike 2, two passes": {
        "repeats": {"contrast": 1, "alike": 2},
        "training": {"learning_rate": 6e-4, "num_train_epochs": 2},
    },
    "alike 3, higher rate": {"repeats": {"contrast": 2, "alike": 3}, "training": {"learning_rate": 1.2e-3}},
}
"""What is changed, by name; each stays within an hour of CPU time."""

_ALIGN = Path(__file__).with_name("align.py")
_ALL_AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder of public data sets; not needed once it was read")
    parser.add_argument("--adopt", action="store_true", help="the world takes over the best alignment")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: two recipes, three steps each")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, base = prepare(arguments.data, Printing())
    recipes = {name: changed(read_own("align.yaml"), changes) for name, changes in TRIED.items()}
    if arguments.tiny:
        few = {"training": {"max_steps": 3}}
        recipes = {name: changed(recipe, few) for name, recipe in [*recipes.items()][:2]}
    figures = run(recipes, answers(base, arguments.out), arguments.out)
    if not figures:
        raise SystemExit(f"no recipe could be tried; see the logs in {arguments.out}")
    best = min(figures, key=lambda name: shortfall(figures[name], recipes[name]["goal"]))
    write_json(arguments.out / "recipes.json", {"best": best, "figures": figures})
    (arguments.out / "best.yaml").write_text(yaml.safe_dump(recipes[best], sort_keys=False), encoding="utf-8")
    if arguments.adopt:
        adopt(folder(arguments.out, best), rows, recipes[best])
    print(best, {name: (round(f["refusal"], 3), round(f["over_refusal"], 3)) for name, f in figures.items()})


def changed(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe with values changed; those of a group one by one."""
    merged = {
        name: {**recipe[name], **value} if isinstance(value, Mapping) else value for name, value in changes.items()
    }
    return {**recipe, **merged}


def folder(out: Path, name: str) -> Path:
    """Returns where the alignment of a recipe goes."""
    return out / name.replace(" ", "-").replace(",", "")


def answers(base: Path, out: Path) -> Path:
    """Returns the file of what the model before alignment answers to look-alikes, which is the same for all."""
    found = SmolWorld().run.file(ALIGNED) / ANSWERS
    if found.exists():
        return found
    spec, settings = what_trains(base, read_own("align.yaml"))
    own_answers(read_rows(SmolWorld().rows("align")), spec, settings, out / ANSWERS, Printing())
    return out / ANSWERS


def run(recipes: Mapping[str, Mapping[str, Any]], answers: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Aligns by each recipe, all at once, and returns the figures of those that ended well."""
    started = {}
    for name, recipe in [*recipes.items()][:_ALL_AT_ONCE]:
        path = folder(out, name).with_suffix(".yaml")
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        folder(out, name).mkdir(exist_ok=True)
        shutil.copy(answers, folder(out, name) / ANSWERS)
        command = [sys.executable, str(_ALIGN), "--recipe", str(path), "--out", str(folder(out, name))]
        with path.with_suffix(".log").open("w") as log:
            started[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    ended = {name: process.wait() for name, process in started.items()}
    return {name: read_json(folder(out, name) / "alignment.json") for name, code in ended.items() if code == 0}


def shortfall(figures: Mapping[str, Any], goal: Mapping[str, float]) -> float:
    """Returns by how much the goal is missed, in refusal and over-refusal together; less is better, also below 0."""
    misses = (goal["refusal"] - figures["refusal"], figures["over_refusal"] - goal["over_refusal"])
    return float(sum(max(miss, 0.05 * miss) for miss in misses))


def adopt(best: Path, rows: Mapping[str, str], recipe: Mapping[str, Any]) -> None:
    """Makes an alignment the world's, as if align.py had made it there."""
    world_run = SmolWorld().run
    with world_run.lock():
        world_run.discard(ALIGNED)
        shutil.rmtree(world_run.file(ALIGNED), ignore_errors=True)
        shutil.copytree(best, world_run.file(ALIGNED))
        commit_alignment(world_run, alignment_key(rows, recipe))


if __name__ == "__main__":
    main()
