"""Public data sets under short names: where each lies on the Hub, how its rows are read, and its licence.

A name works wherever a file does, ``--harmful-reference beavertails`` for one. Nothing of the data ships with sotune.
Identifiers, columns and licences are as their cards and public code state them; what could not be checked is said in
``remark``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from sotune.sources import hub
from sotune.sources.rows import RawRow

Row = dict[str, Any]
_AG_NEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A data set that sotune knows by name.

    Attributes:
        hub_id: Its id on the Hub.
        split: The split that is read unless another is asked for.
        licence: As its card states it.
        to_row: Maps a row to one of a known format; ``None`` leaves the row out.
        subsets: Subsets that are read one after the other; ``None`` among them is the only one.
        data_dir: Whether a subset is a folder of the repository, not a configuration.
        revision: Revision that is read unless another is asked for.
        remark: What is worth knowing.
    """

    hub_id: str
    split: str
    licence: str
    to_row: Callable[[Row], Row | None]
    subsets: tuple[str | None, ...] = (None,)
    data_dir: bool = False
    revision: str | None = None
    remark: str = ""


class LicenceNotice(UserWarning):
    """Says under which licence the data stands that is about to be read."""


def read_named(name: str, *, split: str | None, revision: str | None) -> Generator[RawRow, None, None]:
    """Yields the rows of a named source and says its licence.

    Args:
        name: A key of ``NAMED_SOURCES``.
        split: Another split than the usual one.
        revision: Another revision than the usual one.

    Raises:
        DataError: The Hub cannot be reached, or has no such data set, subset, revision or split.
    """
    source = NAMED_SOURCES[name]
    remark = f"; {source.remark}" if source.remark else ""
    warnings.warn(
        f"{name} is {source.hub_id} on the Hugging Face Hub, licence: {source.licence}{remark}",
        LicenceNotice,
        stacklevel=2,
    )
    line = 0
    for subset in source.subsets:
        raw = hub.read_hub(
            source.hub_id,
            split=split or source.split,
            subset=None if source.data_dir else subset,
            data_dir=subset if source.data_dir else None,
            revision=revision or source.revision,
        )
        for row in raw:
            line += 1
            mapped = source.to_row(row.value) if isinstance(row.value, dict) else row.value
            if mapped is not None:
                yield RawRow(line, mapped)


def _columns(prompt: str, completion: str, *kept: str) -> Callable[[Row], Row]:
    """Returns a mapping that takes prompt and completion from two columns and keeps some more."""

    def to_row(row: Row) -> Row:
        return {"prompt": row.get(prompt), "completion": row.get(completion), **{name: row.get(name) for name in kept}}

    return to_row


def _beavertails(row: Row) -> Row | None:
    """Keeps the answers that people held to be unsafe."""
    if row.get("is_safe") is not False:
        return None
    return {"prompt": row.get("prompt"), "completion": row.get("response"), "category": row.get("category")}


def _red_team(row: Row) -> Row:
    """Takes the first exchange of a transcript; later ones depend on it, and evaluation asks single questions."""
    parts = _TURN.split(f"\n\n{str(row.get('transcript') or '').strip()}")[1:]
    turns = dict(reversed(list(zip(parts[::2], parts[1::2], strict=True))))  # the first of each speaker stays
    kept = {name: row.get(name) for name in ("rating", "min_harmlessness_score_transcript")}
    return {"prompt": turns.get("Human", "").strip(), "completion": turns.get("Assistant", "").strip(), **kept}


def _ag_news(row: Row) -> Row:
    """Asks for the section; the label is a number in the data."""
    label = row.get("label")
    known = isinstance(label, int) and 0 <= label < len(_AG_NEWS_LABELS)
    question = f"Which section does this article belong to: {', '.join(_AG_NEWS_LABELS)}?\n\n{row.get('text')}"
    return {"prompt": question, "completion": _AG_NEWS_LABELS[label] if known else None}  # type: ignore[index]


def _legal_question(row: Row) -> Row:
    """Puts the clause before the question; the column of the clause differs between subsets."""
    clause = row.get("contract") or row.get("text")
    return {"prompt": f"{clause}\n\n{row.get('question')}", "completion": row.get("answer")}


NAMED_SOURCES: Mapping[str, NamedSource] = {
    "beavertails": NamedSource("PKU-Alignment/BeaverTails", "330k_train", "CC BY-NC 4.0", _beavertails),
    "hh-red-team": NamedSource(
        "Anthropic/hh-rlhf",
        "train",
        "MIT",
        _red_team,
        subsets=("red-team-attempts",),
        data_dir=True,
        remark="the first exchange of each transcript; its rating is kept, for row filters",
    ),
    "lat-harmful": NamedSource(
        "LLM-LAT/harmful-dataset",
        "train",
        "not known here, see its card",
        _columns("prompt", "rejected"),
        remark="the alternative harmful reference; the paper does not name its own",
    ),
    "lat-refusals": NamedSource(
        "LLM-LAT/harmful-dataset",
        "train",
        "not known here, see its card",
        _columns("prompt", "chosen"),
        remark="its refusals: safety pairs for the methods that train on such",
    ),
    "slimorca": NamedSource(
        "Open-Orca/SlimOrca", "train", "MIT", lambda row: {"conversations": row.get("conversations")}
    ),
    "agnews": NamedSource("fancyzhx/ag_news", "train", "not stated; for research, not commercial use", _ag_news),
    "metamathqa": NamedSource("meta-math/MetaMathQA", "train", "MIT", _columns("query", "response", "type")),
    "gsm8k": NamedSource("openai/gsm8k", "train", "MIT", _columns("question", "answer"), subsets=("main",)),
    "legalbench-qa": NamedSource(
        "nguha/legalbench",
        "test",
        "by subset; CC BY-NC 4.0 among them",
        _legal_question,
        subsets=("consumer_contracts_qa", "contract_qa", "privacy_policy_qa"),
        data_dir=True,
        revision="refs/convert/parquet",
        remark="the paper names no subsets, these are sotune's choice; their layout on the Hub is unchecked",
    ),
}
"""Every named source, by name: the paper's data (§5.1) and an alternative harmful reference."""
