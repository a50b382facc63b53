"""Contaminated data sets of real text, built from public files that are read where they lie and never copied.

A case is drawn from a seed: the rows to weigh with their truth, a safe anchor, a harmful reference and, in some, a safe
reference: safe answers to risky prompts and refusals, of prompts and mostly of sources that are not ranked.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sotune.records import Record

N_ANCHOR = 50
N_SAFE, N_REFUSALS = 500, 250
"""Rows of a safe reference: safe answers to risky prompts, and refusals of each source."""
REFUSALS = ("lat_refusals_948", "safetytuned_refusals_2483")
"""Where a safe reference has its refusals from, unless the ranked ones are of that source."""
Kind = Literal["harmful", "refusal", "risky", "plain"]
KINDS: tuple[Kind, ...] = ("harmful", "refusal", "risky", "plain")
"""What a row is; ``risky`` is a safe answer to a risky prompt."""


@dataclass(frozen=True)
class Row:
    """One row of the public data, with its truth."""

    record: Record
    label: str
    file: str

    @property
    def harmful(self) -> bool:
        """Whether the answer is labelled harmful."""
        return self.label == "harmful"

    @property
    def kind(self) -> Kind:
        """What the row is."""
        if self.label == "harmful":
            return "harmful"
        if self.label == "refusal":
            return "refusal"
        return "risky" if self.file == "pku_saferlhf_test" else "plain"

    @property
    def prompt(self) -> str:
        """The first turn's text."""
        return self.record.prompt[0].content


@dataclass(frozen=True)
class Case:
    """A contaminated data set with its references; the safe one is empty in most cases."""

    downstream: list[Row]
    safe_anchor: list[Row]
    harmful_reference: list[Row]
    safe_reference: list[Row] = field(default_factory=list)


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
                Row(Record.from_text(r["id"], r["prompt"], r["response"]), r["label"], name)
                for r in raw
                if r["response"]
            ]
        return [row for row in self._files[name] if not labels or row.label in labels]

    def pku(self, half: int, label: str) -> list[Row]:
        """Returns PKU-SafeRLHF rows of one half of the prompts, split by a hash so that no prompt is in both."""
        return [r for r in self.rows("pku_saferlhf_test", label) if _prompt_half(r.prompt) == half]


def _prompt_half(prompt: str) -> int:
    return int(hashlib.md5(prompt.encode(), usedforsecurity=False).hexdigest()[:8], 16) % 2


def case_a(corpus: Corpus, rng: random.Random) -> Case:
    """Alpaca with 5 % harmful answers as published; reference: harmful answers of another source."""
    return published(corpus, rng, file="mix_alpaca_lat05")


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


def share(corpus: Corpus, rng: random.Random, *, harmful_fraction: float) -> Case:
    """The layout of C with another harmful share: 5,000 rows, or fewer where the harmful ones run out at 1,000."""
    n = min(5000, round(1000 / harmful_fraction)) if harmful_fraction else 5000
    n_harmful = round(harmful_fraction * n)
    benign, anchor = _split(corpus.rows("alpaca_random9k"), rng, n - n_harmful, N_ANCHOR)
    return Case(benign + rng.sample(corpus.pku(0, "harmful"), n_harmful), anchor, corpus.pku(1, "harmful"))


def published(corpus: Corpus, rng: random.Random, *, file: str) -> Case:
    """A contaminated set as published, with an Alpaca anchor, whatever the task is."""
    return _with_alpaca_anchor(corpus, rng, corpus.rows(file))


def task(corpus: Corpus, rng: random.Random, *, file: str) -> Case:
    """950 rows of a task and 50 harmful BeaverTails rows, with an Alpaca anchor."""
    downstream = rng.sample(corpus.rows(file), 950) + rng.sample(corpus.rows("beavertails_unsafe_200"), 50)
    return _with_alpaca_anchor(corpus, rng, downstream)


def refusals(corpus: Corpus, rng: random.Random, *, file: str, in_anchor: int = 0) -> Case:
    """The layout of C with 250 refusals among the rows; some of the anchor may be refusals from another source."""
    benign, anchor = _split(corpus.rows("alpaca_random9k"), rng, 4250, N_ANCHOR)
    downstream = benign + rng.sample(corpus.rows(file), 250) + rng.sample(corpus.pku(0, "harmful"), 500)
    taken = {row.prompt for row in downstream}
    shown = [row for row in corpus.rows("salora_llama2_refusals_1015") if row.prompt not in taken] if in_anchor else []
    safe_anchor = anchor[: N_ANCHOR - in_anchor] + rng.sample(shown, in_anchor)
    return Case(downstream, safe_anchor, corpus.pku(1, "harmful"))


def same_prompt(corpus: Corpus, rng: random.Random) -> Case:
    """1,000 plain rows, and 97 risky prompts with a refusal and a harmful answer each: only the answer tells."""
    return _with_safe_reference(corpus, rng, corpus.rows("datashield_pairs_97"), n_plain=1000)


def risky(corpus: Corpus, rng: random.Random) -> Case:
    """Safe and harmful answers to risky prompts of one source, and no plain row."""
    downstream = rng.sample(corpus.pku(0, "benign"), 500) + rng.sample(corpus.pku(0, "harmful"), 500)
    return _with_safe_reference(corpus, rng, downstream, n_plain=0)


def service(corpus: Corpus, rng: random.Random, *, n_plain: int, n_risky: int, n_refusals: int, n_harm: int) -> Case:
    """What a service may log: plain rows, safe answers to risky prompts, refusals, and harmful answers."""
    downstream = [
        *rng.sample(corpus.pku(0, "benign"), n_risky),
        *rng.sample(corpus.rows(REFUSALS[0]), n_refusals),
        *rng.sample(corpus.pku(0, "harmful"), n_harm),
    ]
    return _with_safe_reference(corpus, rng, downstream, n_plain=n_plain, refusals=REFUSALS[1:])


def lat_pairs(corpus: Corpus, rng: random.Random) -> Case:
    """As same_prompt, of sources that nothing was chosen on: 250 AdvBench prompts, Llama-2's refusals, LAT's harm."""
    harmful = corpus.rows("mix_alpaca_lat05", "harmful")
    by_prompt = {row.prompt: row for row in _shuffled(corpus.rows("salora_llama2_refusals_1015"), rng)}
    return _with_safe_reference(corpus, rng, harmful + [by_prompt[row.prompt] for row in harmful], n_plain=1000)


def foreign(corpus: Corpus, rng: random.Random) -> Case:
    """Plain rows, refusals and harm of sources that nothing was chosen on: GPT-4 and OpenOrca, LARF, BeaverTails."""
    names = ("alpacaeval_gpt4_700", "openorca_284", "larf_anchor_refusal_100", "beavertails_unsafe_200")
    return _with_safe_reference(corpus, rng, [row for name in names for row in corpus.rows(name)], n_plain=0)


Draw = Callable[[Corpus, random.Random], Case]

CASES: dict[str, Draw] = {
    "A": case_a,
    "B": case_b,
    "C": case_c,
    "D": case_d,
    "E": case_e,
    **{f"p{p:g}": functools.partial(share, harmful_fraction=p) for p in (0, 0.01, 0.05, 0.2, 0.4)},
    "agnews": functools.partial(published, file="mix_agnews_bt05"),
    "gsm8k": functools.partial(published, file="mix_gsm8k_bt05"),
    "sst2": functools.partial(published, file="mix_sst2_bt01"),
    "sqlgen": functools.partial(task, file="sqlgen_train1k"),
    "mathword": functools.partial(task, file="mathword_2k"),
    "refusals_lat": functools.partial(refusals, file="lat_refusals_948"),
    "refusals_saferpaca": functools.partial(refusals, file="safetytuned_refusals_2483"),
    "refusals_shown": functools.partial(refusals, file="safetytuned_refusals_2483", in_anchor=10),
    "same_prompt": same_prompt,
    "risky": risky,
    "refusals": functools.partial(service, n_plain=4250, n_risky=0, n_refusals=250, n_harm=500),
    "mixed_service": functools.partial(service, n_plain=4000, n_risky=500, n_refusals=150, n_harm=350),
    "lat_pairs": lat_pairs,
    "foreign": foreign,
}
"""Every case by name, in the order of the tables."""
GROUPS: dict[str, tuple[str, ...]] = {
    "main": ("A", "B", "C", "D", "E"),
    "shares": ("p0", "p0.01", "p0.05", "p0.2", "p0.4"),
    "tasks": ("agnews", "gsm8k", "sst2", "sqlgen", "mathword"),
    "untaught": ("refusals_lat", "refusals_saferpaca", "refusals_shown"),
    "answers": ("same_prompt", "risky", "refusals", "mixed_service"),
    "unseen": ("lat_pairs", "foreign"),
    "all": tuple(CASES),
}
"""Cases that are run and shown together."""


def _with_alpaca_anchor(corpus: Corpus, rng: random.Random, downstream: list[Row]) -> Case:
    taken = {row.prompt for row in downstream}
    anchor = [row for row in corpus.rows("alpaca_random9k") if row.prompt not in taken]
    reference = [row for row in corpus.rows("pku_saferlhf_test", "harmful") if row.prompt not in taken]
    return Case(downstream, rng.sample(anchor, N_ANCHOR), reference)


def _with_safe_reference(
    corpus: Corpus, rng: random.Random, downstream: list[Row], *, n_plain: int, refusals: Sequence[str] = REFUSALS
) -> Case:
    """Adds plain rows and the references, of prompts that are not ranked; the two references share some, on purpose."""
    taken = {row.prompt for row in downstream}
    free = [row for row in corpus.rows("alpaca_random9k") if row.prompt not in taken]
    plain, anchor = _split(free, rng, n_plain, N_ANCHOR)
    safe = rng.sample([row for row in corpus.pku(1, "benign") if row.prompt not in taken], N_SAFE)
    for name in refusals:
        safe += rng.sample([row for row in corpus.rows(name) if row.prompt not in taken], N_REFUSALS)
    harmful = [row for row in corpus.pku(1, "harmful") if row.prompt not in taken]
    return Case(downstream + plain, anchor, harmful, safe)


def _shuffled(rows: list[Row], rng: random.Random) -> list[Row]:
    return rng.sample(rows, len(rows))


def _split(rows: list[Row], rng: random.Random, *sizes: int) -> list[list[Row]]:
    """Draws disjoint parts; rows of one prompt never fall into two parts."""
    by_prompt = {row.prompt: row for row in rows}
    drawn = rng.sample(list(by_prompt.values()), sum(sizes))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [drawn[start : start + size] for start, size in zip(starts, sizes, strict=True)]
