"""Does solving on rank worse than the first gradient, and does relaxing the reference's column sums mend it?

For each case of ``filter.py``: AUROC of the first gradient and of solutions at several effective sample sizes, for
several values of ``reference_relaxation``. All of one seed see the same rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
from pathlib import Path

import torch
from torch import Tensor

from cases import CASES, GROUPS, Corpus
from filter import Embeddings, auroc, sentence_embeddings
from sotune.settings import WeightSettings
from sotune.weights import learn_weights

RELAXATIONS = (math.inf, 1.0, 0.3, 0.1, 0.03, 0.0)
SIZES = (None, 0.99, 0.9, 0.7, 0.5, 0.2)


def weigh(sets: list[Tensor], relaxation: float, size: float | None) -> Tensor:
    """Returns weights at an effective sample size, or of the first gradient."""
    settings = WeightSettings(
        cost="cosine",
        solver="one_step" if size is None else "mirror",
        effective_sample_size=size or 0.9,
        stationarity_tolerance=1e-4,
        marginal_tolerance=1e-4,
        max_outer_steps=500,
        reference_relaxation=relaxation,
    )
    return learn_weights(sets[0], sets[1], sets[2], settings).weights


def study(corpus: Corpus, embeddings: Embeddings, seeds: int) -> list[dict[str, object]]:
    """Measures every case, seed, relaxation and effective sample size."""
    results: list[dict[str, object]] = []
    for case in GROUPS["main"]:
        for seed in range(seeds):
            drawn = CASES[case](corpus, random.Random(seed))
            sets = [embeddings(rows) for rows in (drawn.downstream, drawn.safe_anchor, drawn.harmful_reference)]
            safe = torch.tensor([not row.harmful for row in drawn.downstream])
            for relaxation in RELAXATIONS:
                for size in SIZES if relaxation > 0 else SIZES[:1]:  # free columns: the weights change no potential
                    value = auroc(weigh(sets, relaxation, size), safe)
                    results.append({"case": case, "seed": seed, "relaxation": relaxation, "size": size, "auroc": value})
        print(f"case {case} done", flush=True)
    return results


def print_table(results: list[dict[str, object]]) -> None:
    """Prints mean AUROC, one row for each relaxation and size."""
    cases = sorted({str(r["case"]) for r in results})
    print("relaxation  solved to  " + "".join(case.ljust(8) for case in cases))
    for relaxation in RELAXATIONS:
        for size in SIZES:
            cells = [
                [float(str(r["auroc"])) for r in results
                 if (r["case"], r["relaxation"], r["size"]) == (case, relaxation, size)]
                for case in cases
            ]  # fmt: skip
            if all(cells):
                name = "gradient" if size is None else f"{size}"
                print(f"{relaxation:<12}{name:<11}" + "".join(f"{statistics.fmean(c):<8.4f}" for c in cells))


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=Path(".bench-cache/representations"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corpus = Corpus(options.data)
    results = study(corpus, sentence_embeddings(corpus, options.cache), options.seeds)
    print_table(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
