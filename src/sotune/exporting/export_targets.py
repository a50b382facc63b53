"""The tools that kept rows are exported to: the shape of a row, what a weight means there, and what lies beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sotune.exporting import cards, shapes
from sotune.exporting.cards import ExportFacts
from sotune.records import Record
from sotune.settings import TargetName

Beside = Callable[["ExportFacts", "Layout"], Mapping[str, str]]


@dataclass(frozen=True)
class Layout:
    """How the rows were written: whether they have weights, and whether none learns more than its last turn."""

    weighted: bool
    last_turn_only: bool


@dataclass(frozen=True)
class ExportTarget:
    """A tool that rows are exported to.

    Attributes:
        name: Its name in settings.
        title: Its name in words.
        shape: A record as one of its rows; raises an `UnfitRow` where it has no place for what the record holds.
        beside: Names and contents of the files that it needs besides.
        weight: How it takes a row's weight, in words; ``None`` where it has none for a row.
        draws: Whether weights become copies where nobody asked for anything else.
        masks: Which assistant turns are learned there: those that are marked, all, the last alone, or either of the
            two for all rows alike.
        file: The file of the rows.
    """

    name: TargetName
    title: str
    shape: Callable[[Record], dict[str, Any]]
    beside: Beside
    weight: str | None = None
    draws: bool = False
    masks: Literal["marked", "all", "last", "all or last"] = "marked"
    file: str = "train.jsonl"

    def masks_otherwise(self, record: Record, layout: Layout) -> bool:
        """Tells whether other turns of a record are learned there than here."""
        if self.masks == "marked":
            return False
        last = self.masks == "last" or (self.masks == "all or last" and layout.last_turn_only)
        spoken = [i for i, message in enumerate(record.messages) if message.role == "assistant"]
        return record.learned != tuple(spoken[-1:] if last else spoken)


_ALL = (
    ExportTarget(
        "trl",
        "TRL",
        shapes.trl_row,
        lambda facts, layout: cards.trl_snippet(facts, weighted=layout.weighted),
        weight="a column `weight`, which sotune.trl.WeightedSFTTrainer reads and TRL's own trainer ignores",
        masks="last",
    ),
    ExportTarget("axolotl", "Axolotl", shapes.axolotl_row, lambda facts, _: cards.axolotl_config(facts), draws=True),
    ExportTarget(
        "llamafactory",
        "LLaMA-Factory",
        shapes.llamafactory_row,
        lambda facts, layout: cards.llamafactory_config(facts, last_turn_only=layout.last_turn_only),
        masks="all or last",
    ),
    ExportTarget(
        "torchtune", "torchtune", shapes.torchtune_row, lambda facts, _: cards.torchtune_config(facts), masks="all"
    ),
    ExportTarget("openai", "OpenAI", shapes.openai_row, lambda *_: cards.upload_snippet("openai")),
    ExportTarget("together", "Together", shapes.together_row, lambda *_: cards.upload_snippet("together")),
    ExportTarget(
        "fireworks",
        "Fireworks",
        shapes.fireworks_row,
        lambda *_: cards.upload_snippet("fireworks"),
        weight="`weight` of a row, by which Fireworks multiplies its loss",
    ),
    ExportTarget(
        "hf",
        "Hugging Face datasets",
        shapes.hub_row,
        lambda *_: {},
        weight="a column `weight`",
        file="train.parquet",
    ),
    ExportTarget("csv", "CSV", shapes.csv_row, lambda *_: {}, weight="a column `weight`", file="train.csv"),
)
TARGETS: dict[TargetName, ExportTarget] = {target.name: target for target in _ALL}
