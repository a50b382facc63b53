"""The catalogue of public data sets: one file of ``sotune/data`` each, with its licence, its columns and its views.

A view says what rows are read for and how. ``training`` and ``reference`` (a harmful side, a safe side) give prompts
with answers, under a name that works wherever a file does; ``evaluation`` gives the prompts that models are asked.
Nothing of the data ships with sotune. Ids, columns and licences are as the cards and public code state them; comments
and ``rows`` say what could not be checked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from string import Formatter
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sotune.errors import ConfigError, DataError
from sotune.plugins import installed, load_plugin

Kind = Literal["harmful", "lookalike", "task", "skill"]
MatchRule = Literal["label", "number", "contains", "choice", "exact", "f1"]
GROUP = "sotune.sources"
"""Entry points of this group are data sets of other packages, under the entry point's name."""
ANY_COLUMN = "*"
"""The only column of a CSV file without a header, whose first row is read as one."""

_FOLDER = resources.files("sotune") / "data"
_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class View(_Strict):
    """How a row becomes a prompt and an answer.

    Attributes:
        where: Row filters, ``COLUMN=VALUE``.
        prompt: Text with columns in braces. ``{a|b}`` is the first of two columns that is not null, and ``{a:Human}``
            the first turn of that speaker in a transcript; the other is ``Assistant``.
        answer: The same, for the right answer; empty where rows have none.
        answer_after: The answer is what follows this mark's last occurrence.
        choices: The labels to choose from; a whole number in the answer's column picks one of them.
        keep: What else is kept, by column; without a prompt it is the whole row, as with conversations.
    """

    where: tuple[str, ...] = ()
    prompt: str = ""
    answer: str = ""
    answer_after: str = ""
    choices: tuple[str, ...] = ()
    keep: Mapping[str, str] = {}

    @property
    def columns(self) -> set[str]:
        """The columns that are read."""
        fields = [name for _, name, _, _ in Formatter().parse(self.prompt + self.answer) if name]
        tests = [test.partition("=")[0] for test in self.where]
        return {column for name in fields for column in name.split("|")}.union(tests, self.keep.values())

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns ``prompt``, ``completion`` where rows have answers, and what else is kept of a row.

        Raises:
            DataError: A column holds no text, or a number without a label.
        """
        fields = {name: row.get(column) for name, column in self.keep.items()}
        if self.prompt:
            fields["prompt"] = _fill(self.prompt, row)
        if self.answer:
            answer = _fill(self.answer, row, self.choices)
            fields["completion"] = answer.rpartition(self.answer_after)[2] if self.answer_after else answer
        return fields


class Source(View):
    """Rows with answers: for training, or one side of a reference.

    Attributes:
        name: What a user calls it; it begins with the data set's name.
        rows: What the rows are, said with the licence.
        split: The split that is read unless another is asked for.
        subsets: Read one after the other, in place of the data set's own.
    """

    name: str
    rows: str
    split: str = "train"
    subsets: tuple[str, ...] = ()


class Part(View):
    """Prompts of one kind: what they test."""

    kind: Kind
    prompt: str = Field(min_length=1)


class Reference(_Strict):
    """What is pushed away from, and the same kind of prompts met safely."""

    harmful: Source
    safe: Source | None = None


class Evaluation(_Strict):
    """A task pack: prompts that models are asked.

    Attributes:
        parts: How its rows are read; empty only with ``scored_by``.
        subset: In place of the data set's own.
        match: How answers are matched with their reference; None where there is none.
        scored_by: The task of lm-evaluation-harness that must score it; None where this package does.
    """

    splits: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    subset: str | None = None
    match: MatchRule | None = None
    scored_by: str | None = None


class DataSet(_Strict):
    """One public data set.

    Attributes:
        name: Its file's name, and what a user calls it.
        licence: As its source states it; ``see the data set's card`` where that is not known here.
        cite: Where it is described.
        columns: Its schema, in JSON's types; ``*`` where a file has one nameless column.
        splits: The splits that it has.
        subset: Its configuration on the Hub, or with a slash at the end its folder; None for its only one.
        revision: The revision that is read unless another is asked for; None for the newest.
        gated: Whether its owner must grant access first.
    """

    name: str
    title: str
    hub_id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    licence: str = Field(min_length=1)
    cite: str = Field(pattern="^https://")
    columns: Mapping[str, Literal["text", "number", "boolean", "list", "object"]]
    splits: tuple[str, ...]
    subset: str | None = None
    revision: str | None = None
    gated: bool = False
    training: Source | None = None
    reference: Reference | None = None
    evaluation: Evaluation | None = None

    @property
    def sources(self) -> list[Source]:
        """The rows with answers, training before reference."""
        sides = (self.reference.harmful, self.reference.safe) if self.reference else ()
        return [source for source in (self.training, *sides) if source is not None]

    @model_validator(mode="after")
    def _reads_what_there_is(self) -> DataSet:
        parts, asked = (self.evaluation.parts, self.evaluation.splits) if self.evaluation else ((), ())
        columns = {column for view in (*self.sources, *parts) for column in view.columns}
        splits = {*asked, *(source.split for source in self.sources)}
        faults = [f"there is no column {name!r} in columns" for name in sorted(columns - self.columns.keys())]
        faults += [f"there is no split {name!r} in splits" for name in sorted(splits.difference(self.splits))]
        if self.evaluation and not parts and self.evaluation.scored_by is None:
            faults.append("evaluation has neither parts nor scored_by, which say how its rows are read")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def data_set_names() -> tuple[str, ...]:
    """Returns the names of all data sets, those of other packages too, sorted; no file is read."""
    return tuple(sorted({*_own_names(), *_of_other_packages()}))


@cache
def load_data_set(name: str) -> DataSet:
    """Reads the file of one data set, or asks the package that brings it.

    Raises:
        ConfigError: There is no such data set, its file is faulty, or its package cannot be used.

    >>> load_data_set("gsm8k").licence
    'MIT'
    """
    if name in _own_names():
        return parse_data_set(name, yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
    others = _of_other_packages()
    if name not in others:
        raise ConfigError(f"there is no data set {name!r}; {list_known(name, data_set_names())}")
    return _load_entry(others[name])


def parse_data_set(name: str, fields: Mapping[str, Any]) -> DataSet:
    """Builds a data set from the content of its file.

    Raises:
        ConfigError: A field is unknown, missing or faulty, or a view reads what the data set does not have.
    """
    try:
        return DataSet.model_validate({**fields, "name": name})
    except ValidationError as error:
        faults = "; ".join(_describe(fault) for fault in error.errors(include_url=False))
        raise ConfigError(f"data set {name}: {faults}; fix its file") from None


def list_known(wrong: str, names: Sequence[str]) -> str:
    """Returns the end of a message about an unknown name: those that there are, and the one most like it.

    >>> list_known("gsm9k", ["agnews", "gsm8k"])
    "there are agnews, gsm8k; did you mean 'gsm8k'?"
    """
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"there are {', '.join(names)}" + (f"; did you mean {near[0]!r}?" if near else "")


@cache
def _own_names() -> tuple[str, ...]:
    return tuple(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def _of_other_packages() -> dict[str, metadata.EntryPoint]:
    """Returns what other packages bring; none of them can replace a data set of ours."""
    return {name: entry for name, entry in installed(GROUP).items() if name not in _own_names()}


def _load_entry(entry: metadata.EntryPoint) -> DataSet:
    found = load_plugin("data set", entry)
    if not isinstance(found, DataSet) or found.name != entry.name:
        raise ConfigError(
            f"{entry.value} must be a sotune.catalogue.DataSet called {entry.name!r}. Got {_say_what(found)}"
        )
    return found


def _say_what(found: object) -> str:
    return f"one called {found.name!r}" if isinstance(found, DataSet) else f"a {type(found).__name__}"


def _describe(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: a field is unknown"
    if fault["type"] == "literal_error":
        return f"{place} must be one of {fault['ctx']['expected']}. Got {fault['input']!r}"
    return f"{place}: {fault['msg']}" if place else str(fault["msg"]).removeprefix("Value error, ")


def _fill(template: str, row: Mapping[str, Any], choices: tuple[str, ...] = ()) -> str:
    # Columns are put in as they are: braces in a row's text are text.
    pieces = Formatter().parse(template)
    return "".join(text + (_column(row, name, who or "", choices) if name else "") for text, name, who, _ in pieces)


def _column(row: Mapping[str, Any], name: str, speaker: str, choices: tuple[str, ...]) -> str:
    columns = list(row)[:1] if name == ANY_COLUMN else name.split("|")
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if choices and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(choices):
            raise DataError(f"{name} is {value}, and there are {len(choices)} labels")
        return choices[value]
    if not isinstance(value, str):
        raise DataError(f"no text in the column {name!r}; the row has {', '.join(map(str, row)) or 'no columns'}")
    return _first_turn(value, speaker) if speaker else value


def _first_turn(transcript: str, speaker: str) -> str:
    """Returns what a speaker says first: later turns depend on it, and single questions are asked."""
    parts = _SPEAKER.split(f"\n\n{transcript.strip()}")[1:]
    return next((turn.strip() for who, turn in zip(parts[::2], parts[1::2], strict=True) if who == speaker), "")
