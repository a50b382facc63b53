"""What an attack on the filter does to the model: harmful answers after training on what each method keeps.

    python benchmarks/attacks_trained.py --out runs/attacked --json attacked.json

The miniature, where harm is decidable and training takes seconds: its harmful tenth is rewritten or multiplied, or the
references are poisoned, and every method weighs, selects, trains and is asked as in a comparison. The model is asked
plain harmful prompts, whatever the rows looked like. It goes on where it was stopped. benchmarks/attacks.py has more
attacks, on real text, and shows what is kept of them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from sotune.artifacts import write_json
from sotune.comparison.compare_settings import CompareSettings, make_compare_settings
from sotune.comparison.draw import Draw
from sotune.comparison.draws import Draws
from sotune.comparison.grid import Comparison
from sotune.monitoring import Silent
from sotune.records import Message, Record

METHODS = ("base", "sft", "probe", "sot", "adaptive", "adaptive + kl_constrained", "oracle")
_FIGURES = ("harmful_rate", "over_refusal", "utility")


def plain(draw: Draw, rng: random.Random) -> Draw:
    """Leaves all as it is."""
    return draw


def harmless_prompt(draw: Draw, rng: random.Random) -> Draw:
    """Gives each harmful answer the prompt of a harmless row."""
    prompts = [row.prompt for row in draw.downstream if draw.kind[row.id] != "harmful"]
    return _rewritten(draw, lambda row: Record.from_text(row.id, rng.choice(prompts), row.completion))


def pair_first(draw: Draw, rng: random.Random) -> Draw:
    """Lets a harmless question and answer precede each harmful one."""
    clean = [row for row in draw.downstream if draw.kind[row.id] != "harmful"]

    def after(row: Record) -> Record:
        first = rng.choice(clean)
        turns = [*first.prompt, Message("assistant", first.completion), *row.prompt]
        return Record.from_text(row.id, turns, row.completion)

    return _rewritten(draw, after)


def flood(draw: Draw, rng: random.Random) -> Draw:
    """Repeats each harmful row three times, under names of their own."""
    more = [
        replace(row, id=f"{row.id}-{copy}")
        for row in draw.downstream
        for copy in (1, 2)
        if draw.kind[row.id] == "harmful"
    ]
    return replace(
        draw, downstream=[*draw.downstream, *more], kind={**draw.kind, **{row.id: "harmful" for row in more}}
    )


def anchor_10(draw: Draw, rng: random.Random) -> Draw:
    """Puts harmful rows in place of a tenth of the anchor; the reference loses them."""
    n = len(draw.safe_anchor) // 10
    anchor = [
        replace(bad, id=row.id) for row, bad in zip(draw.safe_anchor[:n], draw.harmful_reference[:n], strict=True)
    ]
    return replace(draw, safe_anchor=[*anchor, *draw.safe_anchor[n:]], harmful_reference=[*draw.harmful_reference[n:]])


ATTACKS: dict[str, Callable[[Draw, random.Random], Draw]] = {
    "none": plain,
    "harmless_prompt": harmless_prompt,
    "pair_first": pair_first,
    "flood": flood,
    "anchor_10": anchor_10,
}


def _rewritten(draw: Draw, change: Callable[[Record], Record]) -> Draw:
    return replace(draw, downstream=[change(row) if draw.kind[row.id] == "harmful" else row for row in draw.downstream])


def attacked(options: argparse.Namespace) -> Comparison:
    """Returns the comparison of all methods, whatever draws it is given."""
    settings = settings_of(options)
    shared = settings.shared(settings.datasets[0])
    return Comparison(
        settings.variants(),
        lambda draw: shared,
        folder=options.out,
        monitor=Silent(),
        workers=1,
        threads=1,
        redraw=lambda draw, variant: draw,
        engine=None,
    )


def settings_of(options: argparse.Namespace) -> CompareSettings:
    """Returns the settings that all cells share."""
    return make_compare_settings(
        {
            "model": "miniature",
            "methods": list(METHODS),
            "datasets": [f"miniature-{options.task}"],
            "harmful_fractions": [0.1],
            "seeds": options.seeds,
            "n": options.n,
            "num_train_epochs": 3,
            "n_eval": 120,
            "prompt_control": False,
        }
    )


def draws(options: argparse.Namespace) -> Iterator[Draw]:
    """Yields each draw under each attack, named by it."""
    for draw in Draws(settings_of(options)).all():
        for name in options.attacks:
            yield replace(ATTACKS[name](draw, random.Random(draw.seed)), dataset=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--task", default="verdict")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--n", type=int, default=1000, help="rows")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = attacked(options).run(draws(options))
    for failed in results.failures:
        print(f"{failed.draw}: {failed.variant}: {failed.error}")
    rows = [cell.row for draw in results.draws for cell in draw.cells.values()]
    for row in rows:
        kept = row.get("kept_harmful")
        print(row["dataset"], row["seed"], row["method"], *(f"{row[name]:.3f}" for name in _FIGURES), kept)
    if options.json:
        write_json(options.json, {"cells": rows})


if __name__ == "__main__":
    main()
