"""How much memory a run takes by the number of its rows: the peak of each stage, each in a process of its own.

Rows of about 100 bytes of made-up text, all different, 50 anchors and 200 harmful rows, and a causal LM of random
weights that is so small that hardly anything but the rows takes memory. A stage's process also checks what the stages
before it left, as any verb does. Two figures of each: the most that lay in memory at once, pages of mapped files among
them, and of that what is no file's, which the system cannot take back. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sotune.artifacts import write_json
from ways import alone, mebibytes

STAGES = ("records", "representations", "weights", "selection", "report")
AFTER = ("score", "explain")
"""What is done to a finished run."""
_WORDS = (
    *("sea", "wind", "boat", "lake", "river", "stone", "wide"),
    *("low", "cold", "green", "old", "from", "carries", "warm"),
)
_N_ANCHORS, _N_HARMFUL = 50, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000], help="sizes to measure")
    parser.add_argument("--folder", type=Path, help="keep data and runs here (default: a temporary folder)")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to measure; the others are done if need be")
    parser.add_argument("--kernels", default="", help="max_memory of the solver, such as 100MB (default: its own)")
    parser.add_argument("--after", action="store_true", help="measure what is done to a finished run, too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(_measured(options.stage, options.folder, options.rows[0], options.kernels)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        stages = (*options.stages.split(","), *(AFTER if options.after else ()))
        found = [one for n in options.rows for one in _measure(folder, n, stages, options.kernels)]
    print(_table(found))
    if options.json:
        write_json(options.json, found)


def _measure(folder: Path, n: int, stages: Sequence[str], kernels: str) -> list[dict[str, Any]]:
    write_inputs(folder, n)
    found = []
    for stage in stages:
        arguments = ["--stage", stage, "--folder", str(folder), "--rows", str(n), "--kernels", kernels]
        found.append({"rows": n, "stage": stage, **alone(arguments)})
        print(found[-1], file=sys.stderr, flush=True)
    run = folder / f"run-{n}"
    sizes = {p.name: p.stat().st_size for p in sorted(run.iterdir()) if p.suffix in (".parquet", ".arrow", ".jsonl")}
    found[-1]["files"] = sizes
    return found


def write_inputs(folder: Path, n: int) -> None:
    """Writes a tiny model and the rows, unless they are there."""
    if not (folder / "model").exists():
        _write_model(folder / "model")
    for name, size, seed in (("rows", n, 0), ("anchor", _N_ANCHORS, 1), ("harm", _N_HARMFUL, 2)):
        path = folder / (f"rows-{n}.jsonl" if name == "rows" else f"{name}.jsonl")
        if not path.exists():
            draw = random.Random(seed)
            with path.open("w", encoding="ascii") as file:
                file.writelines(_line(draw, name, number) for number in range(size))


def _line(draw: random.Random, name: str, number: int) -> str:
    prompt = f"Tell of the {' '.join(draw.choices(_WORDS, k=3))} {number}"
    answer = " ".join(draw.choices(_WORDS[:7] if name == "harm" else _WORDS[5:], k=6))
    return json.dumps({"prompt": prompt, "response": answer}) + "\n"


def _write_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = random.Random(3)
    core.train_from_iterator([_line(draw, "rows", number) for number in range(500)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", model_max_length=512
    )
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=512,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _measured(stage: str, folder: Path, n: int, kernels: str) -> dict[str, Any]:
    """Does one stage; returns what it took. What the libraries alone take is measured before it begins."""
    import torch

    import sotune.pipeline.verbs as verbs
    from sotune.monitoring import Silent
    from sotune.pipeline import explain, score
    from sotune.pipeline.stage import run_stages
    from sotune.settings import make_config

    torch.set_num_threads(1)
    run = folder / f"run-{n}"
    config = make_config({
        "data": str(folder / f"rows-{n}.jsonl"), "safe_anchor": str(folder / "anchor.jsonl"),
        "harmful_reference": str(folder / "harm.jsonl"), "model": str(folder / "model"), "out": str(run),
        "device": "cpu", "threads": 1, "cache": False, "layer": -1, "pooling": "last",
        **({"max_memory": kernels} if kernels else {}),
    })  # fmt: skip
    stages = [one for one in verbs.STAGES if one.name in STAGES]
    before = int(mebibytes("VmRSS"))
    anonymous, watch = [0], threading.Event()
    threading.Thread(target=_watch, args=(anonymous, watch), daemon=True).start()
    wall, cpu = time.perf_counter(), time.process_time()
    if stage == "score":
        score(run, str(folder / f"rows-{n}.jsonl"), out=run / "scores.parquet")
    elif stage == "explain":
        explain(run, _some_ids(run))
    else:
        run_stages(stages[: STAGES.index(stage) + 1], config, Silent())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    watch.set()
    return {
        "libraries_mib": before,
        "peak_mib": int(mebibytes("VmHWM")),
        "anonymous_mib": anonymous[0],
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
    }


def _some_ids(run: Path) -> list[str]:
    from sotune.run_files import WEIGHTS

    return [str(one) for one in WEIGHTS.read(run, "id").column("id")[:3]]


def _watch(most: list[int], done: threading.Event) -> None:
    while not done.wait(0.02):
        most[0] = max(most[0], int(mebibytes("RssAnon")))


def _table(found: Sequence[dict[str, Any]]) -> str:
    sizes = list(dict.fromkeys(one["rows"] for one in found))
    lines = [f"| stage | {' | '.join(f'{n:,} rows' for n in sizes)} |", f"|---|{'---|' * len(sizes)}"]
    for stage in dict.fromkeys(one["stage"] for one in found):
        by_size = {one["rows"]: one for one in found if one["stage"] == stage}
        figures = [f"{by_size[n]['peak_mib']:,} ({by_size[n]['anonymous_mib']:,})" for n in sizes if n in by_size]
        lines.append(f"| {stage} | {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
