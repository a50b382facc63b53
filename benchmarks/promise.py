"""Whether what sentinels promise holds, on real text.

Draws mixtures whose harm is, or is not, like the harmful reference, weighs each with sentinels, and asks of *other*
harmful rows, of prompts that nothing has seen, how many pass the cut; with a safe reference also of other safe answers
how many are lost. Also: the same of the harmful rows in the data,
the harmful share that is estimated, what a clean set loses, settings chosen by sentinels against the whole grid, and
unseen rows scored against solving with them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cases import CASES, Corpus, Row
from filter import auroc, sentence_embeddings
from sotune.errors import ConfigError
from sotune.sentinels import (
    Cut,
    Folds,
    Grid,
    LearnedWithSentinels,
    Rate,
    cut_at_harmful_share,
    cut_at_pass_rate,
    cut_where_harm_thins,
    estimate_harmful_share,
    harmful_rows_kept,
    harmful_share_kept,
    split_by_prompt,
    weigh_with_sentinels,
)
from sotune.sentinels.measuring import log_relative, log_relative_of
from sotune.settings import TUNED, SelectionSettings, WeightSettings
from sotune.weights import Scorer, cost_of, learn_weights

Encode = Callable[[Sequence[Row]], Tensor]
N_ANCHOR, N_OTHER_PROMPTS = 40, 460
MAX_PASS, MAX_SHARE = 0.1, 0.01
DROP_AT = SelectionSettings().drop_at
SETTINGS = WeightSettings()
ONE_POINT: Grid = {}
KINDS_OF_HARM = {"like": (), "unlike": ("advbench_520", "harmbench_400", "shadow_alignment_100")}


def draw_mixture(corpus: Corpus, rng: random.Random, kind: str, n: int) -> tuple[list[list[Row]], float]:
    """Returns downstream, anchor, reference and other harmful rows, and the harmful share; prompts are disjoint."""
    by_prompt: dict[str, list[Row]] = {}
    for row in corpus.rows("pku_saferlhf_test", "harmful"):
        by_prompt.setdefault(row.prompt, []).append(row)
    prompts = sorted(by_prompt)
    rng.shuffle(prompts)
    p = rng.choice((0.02, 0.05, 0.1, 0.2))
    n_harmful = round(p * n)
    other = [row for prompt in prompts[:N_OTHER_PROMPTS] for row in by_prompt[prompt]]
    harmful, place = [], N_OTHER_PROMPTS
    while len(harmful) < n_harmful:
        harmful += by_prompt[prompts[place]]
        place += 1
    named = [row for file in KINDS_OF_HARM[kind] for row in corpus.rows(file)]
    reference = named or [row for prompt in prompts[place:] for row in by_prompt[prompt]]
    safe = list({row.prompt: row for row in corpus.rows("alpaca_random9k")}.values())
    benign = rng.sample(safe, n - n_harmful + N_ANCHOR)
    return [benign[N_ANCHOR:] + harmful[:n_harmful], benign[:N_ANCHOR], reference, other], p


def draw_safe(corpus: Corpus, rows: Sequence[Sequence[Row]]) -> tuple[list[Row], list[Row]]:
    """Returns a safe reference, and other safe answers to the prompts of a mixture's other harm.

    No reference has those prompts, be it with a safe or a harmful answer, as none has those of the sentinels.
    """
    asked, taken = ({row.prompt for row in some} for some in (rows[3], rows[0]))
    answers = sorted(corpus.rows("pku_saferlhf_test", "benign"), key=lambda row: row.prompt)
    known = [row for row in answers if row.prompt not in asked | taken]
    return known, [row for row in answers if row.prompt in asked]


def weigh_kept_back(
    rows: Sequence[Sequence[Row]], encode: Encode, seed: int, grid: Grid, safe: Sequence[Row] = ()
) -> LearnedWithSentinels:
    downstream, anchor, reference = (encode(some) for some in rows[:3])
    folds = _split(rows[2], seed)
    if not safe:
        return weigh_with_sentinels(downstream, anchor, reference, folds, SETTINGS, grid=grid)
    folds = replace(folds, safe=_split(safe, seed))
    return weigh_with_sentinels(downstream, anchor, reference, folds, SETTINGS, safe_reference=encode(safe), grid=grid)


def _split(rows: Sequence[Row], seed: int) -> Folds:
    return split_by_prompt([row.prompt for row in rows], seed=seed, tuning_share=0.2, measuring_share=0.2)


def scorer_of(weighed: LearnedWithSentinels, *pull: Tensor) -> Scorer:
    return Scorer.from_learned(
        weighed.learned, settings=weighed.settings, references=(*pull, weighed.harmful_reference)
    )


def one_of_each_prompt(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([i for i, row in enumerate(rows) if i == 0 or row.prompt != rows[i - 1].prompt])


def measure_safe(corpus: Corpus, encode: Encode, seed: int, n: int) -> dict[str, Any]:
    """Weighs one mixture with a safe reference, and asks other harm how much passes, other safe answers how many go."""
    rows, p = draw_mixture(corpus, random.Random(seed), "like", n)
    safe, other_safe = draw_safe(corpus, rows)
    weighed = weigh_kept_back(rows, encode, seed, ONE_POINT, safe)
    sentinels, scores = weighed.sentinels, weighed.row_scores
    solved = encode([safe[i] for i in sentinels.folds.safe.solved])
    scorer = scorer_of(weighed, encode(rows[1]), solved)
    asked = {name: (log_relative_of(scorer, encode(some)), one_of_each_prompt(some))
             for name, some in (("harm", rows[3]), ("safe", other_safe))}  # fmt: skip
    harmful = torch.tensor([row.harmful for row in rows[0]])
    found: dict[str, Any] = {"seed": seed, "p": p, "n": n, "n_sentinels": len(sentinels.safe_scores)}
    fixed = float(scores.sort(descending=True).values[int(0.8 * n) - 1])
    places = {"tuning_outranked": sentinels.tuning_outranked, "drop_at": DROP_AT}
    cuts = {
        "auto": cut_where_harm_thins(scores, **places, safe_outranked=sentinels.safe_tuning_outranked),
        "auto_blind": cut_where_harm_thins(scores, **places),
        "pass": cut_at_pass_rate(scores, sentinels.harmful_scores, max_harmful_pass=MAX_PASS),
        "fixed": Cut(int(0.8 * n), fixed - 1e-12, 1.0),
    }
    for name, cut in cuts.items():
        if cut is None:
            continue
        lost, passed = Rate.of(sentinels.safe_scores <= cut.score), Rate.of(sentinels.harmful_scores > cut.score)
        kept = scores > cut.score
        of = {what: (values > cut.score).double() for what, (values, _) in asked.items()}
        found[name] = {
            "keep": cut.k / n,
            "plain_lost": float((~kept & ~harmful).sum() / (~harmful).sum()),
            "harm_kept": float(kept[harmful].double().mean()),
            "pass_high": passed.high,
            "other_pass": float(of["harm"].mean()),
            "other_pass_one_each": float(of["harm"][asked["harm"][1]].mean()),
            "lost_low": lost.low,
            "lost_high": lost.high,
            "other_lost": 1 - float(of["safe"].mean()),
            "other_lost_one_each": 1 - float(of["safe"][asked["safe"][1]].mean()),
        }
    return found


def measure_promise(corpus: Corpus, encode: Encode, seed: int, kind: str, n: int) -> dict[str, Any]:
    """Weighs one mixture, places the cut, and asks the other harmful rows and those in the data."""
    rows, p = draw_mixture(corpus, random.Random(seed), kind, n)
    weighed = weigh_kept_back(rows, encode, seed, ONE_POINT)
    scores = weighed.row_scores
    harmful = torch.tensor([row.harmful for row in rows[0]])
    other = log_relative_of(scorer_of(weighed, encode(rows[1])), encode(rows[3]))
    one_each = one_of_each_prompt(rows[3])
    measuring, tuning = weighed.sentinels.harmful_scores, weighed.sentinels.tuning_outranked
    share = estimate_harmful_share(
        scores, measuring, safe_outranked=weighed.sentinels.safe_outranked, tuning_outranked=tuning
    )
    found: dict[str, Any] = {
        "kind": kind, "seed": seed, "p": p, "n": n, "n_other": len(other),
        "n_sentinels": len(measuring),
        "share": [share.low, share.estimate, share.high], "drop": share.drop,
    }  # fmt: skip
    n_harmful = int(harmful.sum())

    def at(cut: Cut) -> dict[str, Any]:
        passed = Rate.of(measuring > cut.score)
        kept = scores > cut.score
        return {
            "bound": cut.bound,
            "keep": cut.k / n,
            "high": passed.high,
            "other_pass": float((other > cut.score).double().mean()),
            "other_pass_one_each": float((other[one_each] > cut.score).double().mean()),
            "harmful_kept": int((kept & harmful).sum()),
            "predicted": harmful_rows_kept(passed, n_harmful),
            "predicted_by_estimate": harmful_rows_kept(passed, round(share.estimate * n)),
            "share_kept": float(harmful[kept].double().mean()),
            "share_kept_at_most": harmful_share_kept(passed.count, passed.n, share, keep=cut.k / n),
            "safe_lost": float((~kept & ~harmful).sum() / (~harmful).sum()),
        }

    places: dict[str, Callable[[], Cut | None]] = {
        "auto": lambda: cut_where_harm_thins(scores, tuning_outranked=tuning, drop_at=DROP_AT),
        "pass": lambda: cut_at_pass_rate(scores, measuring, max_harmful_pass=MAX_PASS),
        "share_mode": lambda: cut_at_harmful_share(
            scores, measuring, share, tuning_outranked=tuning, max_harmful_share=MAX_SHARE
        ),
    }
    for name, place in places.items():
        try:
            cut = place()
        except ConfigError:
            cut = None
        found[name] = None if cut is None else at(cut)
    fixed = float(scores.sort(descending=True).values[int(0.8 * n) - 1])
    found["fixed"] = at(Cut(int(0.8 * n), fixed - 1e-12, 1.0))
    return found


def measure_clean(corpus: Corpus, encode: Encode, seed: int, sentinels: str) -> dict[str, Any]:
    """What the modes keep of data without harm, at the default settings or at those that the tuning fold chooses."""
    drawn = CASES["p0"](corpus, random.Random(seed))
    rows = [drawn.downstream, drawn.safe_anchor, drawn.harmful_reference]
    weighed = weigh_kept_back(rows, encode, seed, TUNED if sentinels == "tune" else ONE_POINT)
    scores, measuring = weighed.row_scores, weighed.sentinels.harmful_scores
    share = estimate_harmful_share(
        scores,
        measuring,
        safe_outranked=weighed.sentinels.safe_outranked,
        tuning_outranked=weighed.sentinels.tuning_outranked,
    )
    kept: dict[str, float | None] = {}
    for limit in (0.005, 0.01, 0.02):
        try:
            kept[str(limit)] = cut_at_harmful_share(
                scores, measuring, share, tuning_outranked=weighed.sentinels.tuning_outranked, max_harmful_share=limit
            ).k / len(scores)
        except ConfigError:
            kept[str(limit)] = None
    first = cut_at_pass_rate(scores, measuring, max_harmful_pass=MAX_PASS).k / len(scores)
    thinning = cut_where_harm_thins(scores, tuning_outranked=weighed.sentinels.tuning_outranked, drop_at=DROP_AT)
    return {
        "seed": seed,
        "sentinels": sentinels,
        "share": [share.low, share.estimate, share.high],
        "kept": kept,
        "kept_by_pass": first,
        "kept_by_auto": None if thinning is None else thinning.k / len(scores),
    }


def measure_settings(corpus: Corpus, encode: Encode, seed: int, case: str) -> dict[str, Any]:
    """Compares the settings that sentinels chose with every point of the grid, all solved, by the truth."""
    drawn = CASES[case](corpus, random.Random(seed))
    rows = [drawn.downstream, drawn.safe_anchor, drawn.harmful_reference]
    weighed = weigh_kept_back(rows, encode, seed, TUNED)
    safe = torch.tensor([not row.harmful for row in drawn.downstream])
    downstream, anchor = encode(rows[0]), encode(rows[1])
    choices = [tried.settings for tried in weighed.sentinels.tuned.tried]
    costs = {
        cost: cost.fit(downstream, anchor, weighed.harmful_reference) for cost in dict.fromkeys(map(cost_of, choices))
    }

    def solved(choice: WeightSettings) -> float:
        cost = costs[cost_of(choice)]
        learned = learn_weights(downstream, anchor, weighed.harmful_reference, choice, cost=cost)
        return auroc(learned.weights, safe) or 0.0

    figures = {choice: solved(choice) for choice in choices}
    best = max(figures, key=lambda choice: figures[choice])
    chosen, default = weighed.sentinels.tuned.chosen.settings, weighed.sentinels.tuned.default.settings
    return {
        "case": case, "seed": seed, "best": figures[best], "chosen": figures[chosen], "default": figures[default],
        "best_choice": _named(best), "chosen_choice": _named(chosen),
    }  # fmt: skip


def _named(choice: WeightSettings) -> str:
    return ", ".join(f"{name}={getattr(choice, name)}" for name in TUNED)


def measure_scoring(corpus: Corpus, encode: Encode, seed: int, case: str) -> dict[str, Any]:
    """Scores a fifth of the rows as unseen ones, and compares with solving on all."""
    drawn = CASES[case](corpus, random.Random(seed))
    downstream, anchor, reference = (
        encode(rows) for rows in (drawn.downstream, drawn.safe_anchor, drawn.harmful_reference)
    )
    unseen = torch.rand(len(downstream), generator=torch.Generator().manual_seed(seed)) < 0.2
    whole = learn_weights(downstream, anchor, reference, SETTINGS)
    part = learn_weights(downstream[~unseen], anchor, reference, SETTINGS)
    scorer = Scorer.from_learned(part, settings=SETTINGS, references=(anchor, reference))
    ranks = torch.stack(
        [_ranks(log_relative_of(scorer, downstream[unseen])), _ranks(log_relative(whole.weights)[unseen])]
    )
    return {"case": case, "seed": seed, "spearman": float(torch.corrcoef(ranks)[0, 1])}


def _ranks(values: Tensor) -> Tensor:
    return values.argsort(stable=True).argsort(stable=True).double()


def summarize_promises(results: Sequence[dict[str, Any]], kind: str) -> None:
    for mode in ("auto", "pass", "share_mode", "fixed"):
        found = [r[mode] | {"n": r["n"], "p": r["p"]} for r in results if r["kind"] == kind and r[mode] is not None]
        if not found:
            print(f"{kind} {mode}: no cut in any of the mixtures")
            continue

        def share(holds: Callable[[dict[str, Any]], bool], rows: Sequence[dict[str, Any]] = found) -> str:
            return f"{100 * statistics.fmean(holds(row) for row in rows):.1f} %"

        def mean(name: str, rows: Sequence[dict[str, Any]] = found) -> str:
            return f"{100 * statistics.fmean(row[name] for row in rows):.1f} %"

        covered = share(lambda r: r["high"] >= r["other_pass"])
        by_prompt = share(lambda r: r["high"] >= r["other_pass_one_each"])
        predicted = share(lambda r: r["harmful_kept"] <= r["predicted"])
        by_estimate = share(lambda r: r["harmful_kept"] <= r["predicted_by_estimate"])
        above = share(lambda r: r["share_kept"] > MAX_SHARE)
        bounded = share(lambda r: r["share_kept"] <= r["share_kept_at_most"])
        print(
            f"{kind} {mode}, {len(found)} mixtures: the bound covers other harm's pass rate in {covered}, counted once "
            f"a prompt in {by_prompt}; pass rate {mean('other_pass')}, bound {mean('high')}; harmful rows of the data "
            f"within the prediction in {predicted}, by the estimated number in {by_estimate}; kept {mean('keep')}, "
            f"safe lost {mean('safe_lost')}, harmful among kept {mean('share_kept')}, above {MAX_SHARE:.0%} in {above}"
            f", within its bound of {mean('share_kept_at_most')} in {bounded}"
        )
    some = [r for r in results if r["kind"] == kind]
    within = statistics.fmean(r["share"][0] <= r["p"] <= r["share"][2] for r in some)
    print(f"{kind}: true harmful share within its interval in {100 * within:.1f} %")
    for p in sorted({r["p"] for r in some}):
        of_p = [r["share"] for r in some if r["p"] == p]
        low, estimate, high = (statistics.fmean(column) for column in zip(*of_p, strict=True))
        print(f"  p = {p:g}: estimate {estimate:.3f}, interval {low:.3f} – {high:.3f} (means of {len(of_p)})")


def summarize_safe(results: Sequence[dict[str, Any]]) -> None:
    for mode in ("auto", "auto_blind", "pass", "fixed"):
        found = [r[mode] for r in results if mode in r]

        def share(holds: Callable[[dict[str, Any]], bool], rows: Sequence[dict[str, Any]] = found) -> str:
            return f"{100 * statistics.fmean(holds(row) for row in rows):.1f} %"

        def mean(name: str, rows: Sequence[dict[str, Any]] = found) -> str:
            return f"{100 * statistics.fmean(row[name] for row in rows):.1f} %"

        print(
            f"safe {mode}, {len(found)} mixtures: upper bound covers safe answers lost in "
            f"{share(lambda r: r['lost_high'] >= r['other_lost'])}, lower in "
            f"{share(lambda r: r['lost_low'] <= r['other_lost'])}, counted once a prompt "
            f"{share(lambda r: r['lost_high'] >= r['other_lost_one_each'])} and "
            f"{share(lambda r: r['lost_low'] <= r['other_lost_one_each'])}; other harm's pass rate in "
            f"{share(lambda r: r['pass_high'] >= r['other_pass'])}, once a prompt "
            f"{share(lambda r: r['pass_high'] >= r['other_pass_one_each'])}; lost {mean('other_lost')} (bound "
            f"{mean('lost_high')}), pass {mean('other_pass')} (bound {mean('pass_high')}), kept {mean('keep')}, harm "
            f"of the data kept {mean('harm_kept')}, plain lost {mean('plain_lost')}"
        )


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="like,unlike,safe,clean,settings,scoring", help="what is measured")
    parser.add_argument("--mixtures", type=int, default=400, help="mixtures whose harm is like the reference")
    parser.add_argument("--first-mixture", type=int, default=0, help="the first of them, and of those of part safe")
    parser.add_argument("--unlike", type=int, default=60, help="mixtures whose harm is not")
    parser.add_argument("--rows", type=int, default=600, help="rows of a mixture")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the other parts")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of these draws")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SOTUNE_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=Path(".bench-cache/representations"))
    parser.add_argument("--json", type=Path, help="where to write all results; rewritten after each")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"no data folder at {args.data}; name one with --data or SOTUNE_DATA")
    corpus = Corpus(args.data)
    encode = sentence_embeddings(corpus, args.cache)
    names = ("promises", "safe", "clean", "settings", "scoring")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

    def add(part: str, found: dict[str, Any]) -> None:
        results[part].append(found)
        print(part, json.dumps(found), file=sys.stderr, flush=True)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(results, indent=1) + "\n")

    parts = args.parts.split(",")
    for kind, count in (("like", args.mixtures), ("unlike", args.unlike)):
        for seed in range(args.first_mixture, args.first_mixture + count) if kind in parts else ():
            add("promises", measure_promise(corpus, encode, seed, kind, args.rows))
    for seed in range(args.first_mixture, args.first_mixture + args.mixtures) if "safe" in parts else ():
        add("safe", measure_safe(corpus, encode, seed, args.rows))
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        if "clean" in parts:
            for sentinels in ("measure", "tune"):
                add("clean", measure_clean(corpus, encode, seed, sentinels))
        for case in "ABCDE":
            if "scoring" in parts:
                add("scoring", measure_scoring(corpus, encode, seed, case))
            if "settings" in parts:
                add("settings", measure_settings(corpus, encode, seed, case))
    for kind in ("like", "unlike"):
        if kind in parts:
            summarize_promises(results["promises"], kind)
    if "safe" in parts:
        summarize_safe(results["safe"])
    for part in ("clean", "scoring", "settings"):
        for found in results[part]:
            print(part, json.dumps(found))


if __name__ == "__main__":
    main()
