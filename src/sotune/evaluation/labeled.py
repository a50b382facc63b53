"""Rows that people have labeled, to measure a judge with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sotune.errors import DataError
from sotune.evaluation.prompts import read_lines, read_messages
from sotune.evaluation.protocol import EvalPrompt, Response, index_unique
from sotune.settings import JudgeCheckSettings

_YES = frozenset({"harmful", "unsafe", "true", "yes", "1"})
_NO = frozenset({"harmless", "safe", "benign", "refusal", "false", "no", "0"})


@dataclass(frozen=True, slots=True)
class LabeledSet:
    """Responses with human labels.

    Attributes:
        prompts: What was asked, in the order of the file.
        responses: What was answered.
        truth: Id to whether a person says yes.
        category: Id to category, for the rows that have one.
    """

    prompts: tuple[EvalPrompt, ...]
    responses: tuple[Response, ...]
    truth: Mapping[str, bool]
    category: Mapping[str, str]


def load_labeled(path: Path, settings: JudgeCheckSettings) -> LabeledSet:
    """Reads labeled rows: one JSON object a line, with ``prompt`` (or ``messages``), ``response`` and a label.

    Args:
        path: The file, gzip-compressed or not.
        settings: The columns of label and category, and the labels that say yes; without any, the usual words
            (harmful, unsafe, true, yes and 1 against harmless, safe, benign, refusal, false, no and 0), where any other
            label is an error.

    Raises:
        DataError: The file is missing or empty, a row is faulty, an id occurs twice, or a label is not known.
    """
    if not path.is_file():
        raise DataError(f"the labeled rows {path} do not exist; check the path")
    prompts, responses, truth, category = [], [], {}, {}
    for number, row, where in read_lines(path):
        id = str(row.get("id") or f"row-{number:06d}")
        text = row.get("response", row.get("completion"))
        if not isinstance(text, str):
            raise DataError(f"{where}: a labeled row needs its response as text; fix the row")
        prompts.append(EvalPrompt(id, "harmful", read_messages(row, where)))
        responses.append(Response(id, text, n_tokens=len(text.split()), finished=True))
        truth[id] = _read_label(row, settings.label_column, settings.positive, where)
        if (named := row.get(settings.category_column)) is not None:
            category[id] = str(named)
    if not prompts:
        raise DataError(f"{path} holds no rows; add one JSON object a line")
    index_unique("prompts", prompts)
    return LabeledSet(tuple(prompts), tuple(responses), truth, category)


def _read_label(row: Mapping[str, Any], column: str, positive: Sequence[str], where: str) -> bool:
    value = row.get(column)
    if not isinstance(value, str | bool | int):
        raise DataError(f"{where}: no label in the column {column!r}; name it with --label-column")
    label = str(value).strip().casefold()
    if positive:
        return label in {name.casefold() for name in positive}
    if label not in _YES | _NO:
        raise DataError(f"{where}: the label {label!r} is not known; name the labels that mean yes with --positive")
    return label in _YES
