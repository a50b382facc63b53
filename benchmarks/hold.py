"""What a hold costs: CPU seconds, tokens and memory of a training that holds, beside the same one that does not.

Each way trains on the same draw of a world (all rows, ``miniature`` or ``smol``) for the same steps in a process of its
own, in turns, so that other work on the machine hardly counts. The whole training stage is measured, from rows to
adapter: loading the model and asking it first are in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sotune.artifacts import write_json
from sotune.comparison.compare_settings import make_compare_settings
from sotune.comparison.draws import Draws
from sotune.methods import Tools, TrainInputs, method_named
from sotune.models import ModelSpec
from sotune.settings import TrainingSettings
from sotune.training import fine_tune
from ways import in_turns, medians


def inputs_of(options: argparse.Namespace, folder: Path) -> TrainInputs:
    """Returns what a trainer is given: all rows of one draw."""
    size = {"n": options.n} if options.n else {}
    settings = make_compare_settings(
        {
            "model": options.world,
            "methods": ["sft"],
            "datasets": [f"{options.world}-{options.task}"],
            "seeds": [options.seed],
            "n_safe_reference": options.safe_reference,
            **size,
        }
    )
    draw = next(Draws(settings).all())
    shared = settings.shared(settings.datasets[0])
    changes = {"num_train_epochs": options.epochs, "max_steps": options.steps, "seed": options.seed}
    if options.batch_size:
        changes["per_device_train_batch_size"] = options.batch_size
    training = TrainingSettings(
        **{name: value for name, value in {**shared, **changes}.items() if name in TrainingSettings.model_fields}
    )
    model = ModelSpec(shared["model"], dtype=shared["dtype"], device=options.device)
    return TrainInputs(
        records=draw.downstream,
        loss_weights=dict.fromkeys((record.id for record in draw.downstream), 1.0),
        safe_anchor=draw.safe_anchor,
        harmful_reference=draw.harmful_reference,
        safe_reference=draw.safe_reference,
        tools=Tools(model=model, training=training, work_dir=folder / "work", safety_pairs=draw.safety_pairs),
        output_dir=folder / "out",
        method_settings=dict(part.split("=", 1) for part in options.set),
    )


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains in one way, in this process."""
    torch.set_num_threads(options.threads)
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        inputs = inputs_of(options, Path(name))
        settings, tools = inputs.tools.training.replace(max_steps=1), inputs.tools
        fine_tune(inputs.records[:8], inputs.loss_weights, model=tools.model, settings=settings, output_dir=Path(name))
        start, wall = time.process_time(), time.perf_counter()
        result = method_named(way).train(replace(inputs, on_step=lambda _: marks.append(time.process_time())))
        end = time.process_time()
    return {
        "way": way,
        "cpu_seconds": end - start,
        "seconds": time.perf_counter() - wall,
        "to_first_step": marks[0] - start,
        "other_steps": marks[-1] - marks[0],
        "after_last_step": end - marks[-1],
        "figures": dict(result.figures),
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """Prints the median of the rounds for each way."""
    parts = ("cpu_seconds", "to_first_step", "other_steps", "after_last_step")
    print("| way | CPU s | factor | to the first step | other steps | after the last |\n|---|---|---|---|---|---|")
    first = 0.0
    for way, found in medians(results, *parts).items():
        total, *rest = found.values()
        first = first or total
        print(f"| {way} | {total:.1f} | {total / first:.2f} | " + " | ".join(f"{part:.1f}" for part in rest) + " |")


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", default="sft,kl_constrained", help="methods that train, the plain one first")
    parser.add_argument("--world", default="miniature", choices=("miniature", "smol"))
    parser.add_argument("--task", default="verdict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, help="rows; as many as the world says")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--steps", type=int, help="in place of epochs")
    parser.add_argument("--batch-size", type=int, help="rows of a step; as many as the world says")
    parser.add_argument("--safe-reference", type=int, default=0, help="rows of the safe reference")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="constants of the methods")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    results = in_turns(options.ways.split(","), rounds=options.rounds)
    print_table(results)
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
