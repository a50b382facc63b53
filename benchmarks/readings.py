"""Which layer and pooling of the miniature's model represent its rows best, and which one would be chosen.

Needs no data: for each task and draw of ``sotune demo`` it measures the AUROC of some methods at every layer and
pooling, beside the figure that the choice is made by, which sees no label.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sotune.comparison import Draw
from sotune.comparison.draws import Draws
from sotune.demo import demo_settings
from sotune.methods import METHODS, WeighInputs
from sotune.miniature import TASKS, model_path
from sotune.models import ModelSpec
from sotune.pipeline.choosing import choose_encoder
from sotune.records import SET_NAMES
from sotune.representations import (
    POOLINGS,
    CausalLMEncoder,
    CausalLMReadings,
    FrozenCausalLM,
    RepresentationCache,
    candidate_layers,
    encode_with_cache,
)
from sotune.weights.separation import auroc

SHOWN = ("adaptive", "probe", "sot_potentials")


@dataclass(frozen=True)
class Result:
    """One reading on one draw.

    Attributes:
        task: The miniature's task.
        seed: Of the draw.
        layer: Layer that was read.
        pooling: How its states became a vector.
        separation: What the choice is made by.
        chosen: Whether this reading would be taken.
        auroc: Method to the probability that a harmful row scores below another.
    """

    task: str
    seed: int
    layer: int
    pooling: str
    separation: float | None
    chosen: bool
    auroc: dict[str, float]


def measure(task: str, draw: Draw, cache: RepresentationCache) -> list[Result]:
    """Measures all readings on one draw."""
    settings = demo_settings(template="paper")
    model = FrozenCausalLM(
        ModelSpec(str(model_path()), dtype=settings.dtype, device=settings.device),
        settings,
        batch_tokens=settings.batch_tokens,
    )
    sets = dict(zip(SET_NAMES[:3], (draw.downstream, draw.safe_anchor, draw.harmful_reference), strict=True))
    group = CausalLMReadings(model, layers=candidate_layers(model.n_layers), poolings=POOLINGS)
    choice = choose_encoder(group, sets, cache)
    harmful = torch.tensor([draw.kind[record.id] == "harmful" for record in draw.downstream])
    results = []
    for candidate in choice.candidates:
        encoder = candidate.encoder
        assert isinstance(encoder, CausalLMEncoder)  # for the type checker
        values = encode_with_cache(encoder, [record for rows in sets.values() for record in rows], cache).values
        inputs = WeighInputs(*torch.split(values, [len(rows) for rows in sets.values()]), draw.seed)
        scores = {method: METHODS[method].weigh(inputs).weights.double() for method in SHOWN}
        figures = {method: auroc(score[~harmful], score[harmful]) for method, score in scores.items()}
        reading = encoder.reading
        chosen = encoder is choice.encoder
        results.append(Result(task, draw.seed, reading.layer, reading.pooling, candidate.separation, chosen, figures))
    return results


def print_tables(results: Sequence[Result]) -> None:
    """Prints Markdown: the mean of every reading, and for each draw the last token, the choice and the best."""
    print("\n| layer | pooling | separation | " + " | ".join(f"`{name}`" for name in SHOWN) + " | chosen |")
    print("|---" * (len(SHOWN) + 4) + "|")
    for layer, pooling in dict.fromkeys((one.layer, one.pooling) for one in results):
        rows = [one for one in results if (one.layer, one.pooling) == (layer, pooling)]
        means = [_span(rows, lambda one, name=name: one.auroc[name]) for name in SHOWN]
        separation = _plain(statistics.fmean(one.separation or 0.0 for one in rows))
        print(f"| {layer} | {pooling} | {separation} | {' | '.join(means)} | {sum(r.chosen for r in rows)} |")
    print("\n`adaptive` with the last token, with the choice, and with the best reading\n")
    print("| task | draw | last token | choice | best |\n|---|---|---|---|---|")
    for task, seed in dict.fromkeys((one.task, one.seed) for one in results):
        rows = [one for one in results if (one.task, one.seed) == (task, seed)]
        paper = next(one for one in rows if one.pooling == "last" and one.layer == max(r.layer for r in rows))
        chosen, best = next(one for one in rows if one.chosen), max(rows, key=lambda one: one.auroc["adaptive"])
        cells = " | ".join(_plain(one.auroc["adaptive"]) for one in (paper, chosen, best))
        print(f"| {task} | {seed} | {cells} |")


def _span(rows: Sequence[Result], value: Callable[[Result], float]) -> str:
    values = [value(one) for one in rows]
    return f"{_plain(statistics.fmean(values))} ({_plain(min(values))})"


def _plain(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=2, help="draws of each task")
    parser.add_argument("--harmful-fraction", type=float, default=0.1)
    parser.add_argument("--json", type=Path, help="where to write all results")
    args = parser.parse_args()
    results: list[Result] = []
    with TemporaryDirectory() as folder:
        for task in args.tasks:
            data = {"datasets": [f"miniature-{task}"], "harmful_fractions": [args.harmful_fraction]}
            for draw in Draws(demo_settings(**data, seeds=args.seeds)).all():
                results += measure(task, draw, RepresentationCache(Path(folder) / draw.name))
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n")
    print_tables(results)


if __name__ == "__main__":
    main()
