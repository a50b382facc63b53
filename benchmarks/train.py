"""What the output layer on labeled tokens alone, and batches of like length, are worth in training.

LoRA on real rows with SmolLM2-135M (the world ``smol``, or ``--model``), each way in a process of its own, in turns.
A token is one of a row, without padding. CPU seconds are those of the training process, so that other work on the
machine hardly counts; peak memory is what training takes beyond the loaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cases import Corpus
from sotune.artifacts import cache_folder, write_json
from sotune.models import ModelSpec
from sotune.rendering import load_renderer
from sotune.settings import TrainingSettings
from sotune.training import WeightedTrainer, fine_tune
from sotune.training.training_rows import build_training_rows
from sotune.worlds.packaged_model import make_model, packaged_gguf

WAYS = ("all logits", "labeled tokens", "labeled tokens, by length")


class Measured(WeightedTrainer):
    """Notes CPU seconds and peak memory."""

    figures: dict[str, float]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as ever."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux forgets the peak so far
        before, start, cpu = _mebibytes("VmRSS"), time.perf_counter(), time.process_time()
        result = super().train(*args, **kwargs)
        type(self).figures = {
            "cpu_seconds": time.process_time() - cpu,
            "seconds": time.perf_counter() - start,
            "peak_mib": _mebibytes("VmHWM") - before,
            "loss": result.training_loss,
        }
        return result


class AllLogits(Measured):
    """Computes the logits of all tokens first, as a plain Trainer does."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Asks for the outputs, so that they must be computed."""
        found = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        return found if return_outputs else found[0]


def _mebibytes(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else float("nan")


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains in one way, in this process."""
    records = [row.record for row in Corpus(options.data).rows(options.rows)[: options.n]]
    weights = dict.fromkeys((record.id for record in records), 1.0)
    model = ModelSpec(str(options.model), dtype="float32", device="cpu")
    settings = TrainingSettings(
        template="chat",
        max_length=options.max_length,
        learning_rate=1e-3,
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=1,
        group_by_length="by length" in way,
    )
    rows = build_training_rows(records, weights, load_renderer(model, settings)).rows
    trainer = AllLogits if way == "all logits" else Measured
    with tempfile.TemporaryDirectory() as out:
        fine_tune(records, weights, model=model, settings=settings, output_dir=Path(out), trainer_class=trainer)
    n_tokens = sum(len(row.input_ids) for row in rows)
    return {
        "way": way,
        "rows": options.rows,
        "tokens": n_tokens,
        "learned": sum(int(row.learned.sum()) for row in rows),
        "tokens_per_cpu_second": n_tokens / trainer.figures["cpu_seconds"],
        **trainer.figures,
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """Prints the median of the rounds for each way."""
    print("| way | tokens a CPU second | factor | peak MiB | mean loss |\n|---|---|---|---|---|")
    medians = {
        way: {
            name: statistics.median(result[name] for result in results if result["way"] == way)
            for name in ("tokens_per_cpu_second", "peak_mib", "loss")
        }
        for way in WAYS
    }
    for way, found in medians.items():
        speed = found["tokens_per_cpu_second"]
        factor = speed / medians[WAYS[0]]["tokens_per_cpu_second"]
        print(f"| {way} | {speed:.0f} | {factor:.2f} | {found['peak_mib']:.0f} | {found['loss']:.4f} |")


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="mix_agnews_bt05", help="file of the data folder")
    parser.add_argument("--n", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    if options.model is None:
        options.model = cache_folder("smol") / "base"
        if not options.model.exists():
            make_model(packaged_gguf(), options.model)
    results = []
    for way in WAYS * options.rounds:
        arguments = [*sys.argv[1:], "--model", str(options.model), "--way", way]
        done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    print_table(results)
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
