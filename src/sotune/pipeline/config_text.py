"""A commented YAML file of settings, for a user who begins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sotune.catalogue import data_set_names, load_data_set
from sotune.settings import RunConfig

SCHEMA_FILE = "sotune.schema.json"
_NON_COMMERCIAL = "NC"


@dataclass(frozen=True)
class NamedReference:
    """A public set that can be named as a reference.

    Attributes:
        name: What a user calls it.
        title: Its own title.
        licence: As its source states it.
        sides: Which sides it has: harmful, safe.
        note: What its licence keeps one from; empty: nothing that is known.
    """

    name: str
    title: str
    licence: str
    sides: tuple[str, ...]
    note: str


def named_references() -> list[NamedReference]:
    """Returns the references of the catalogue, those for any use first."""
    found = []
    for data_set in map(load_data_set, data_set_names()):
        if data_set.reference is None:
            continue
        sides = ("harmful", "safe") if data_set.reference.safe else ("harmful",)
        words = data_set.licence.replace("-", " ").split()
        note = "not for commercial use" if _NON_COMMERCIAL in words else ""
        found.append(NamedReference(data_set.name, data_set.title, data_set.licence, sides, note))
    return sorted(found, key=lambda one: (one.note, one.name))


@dataclass
class Draft:
    """What the user has settled.

    Attributes:
        settings: The settings that were given, by name.
        comments: A comment on some of them.
        found: What was found in the user's file, in words.
    """

    settings: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    found: Sequence[str] = ()


_OPEN: Mapping[str, Mapping[str, Any]] = {
    "How much is kept": {"keep": "auto", "drop_at": 0.05, "keep_fraction": 0.8, "max_harmful_pass": 0.1},
    "Training": {"learning_rate": 4e-5, "num_train_epochs": 2, "per_device_train_batch_size": 1, "hold_drift": 0.02},
    "Evaluation": {"eval_prompts": "xstest,prompts.jsonl", "harm_judge": ["guard:MODEL"]},
}
"""Settings that are shown as comments, unless they were given: the defaults, and an example where there is none."""


def render_config(draft: Draft) -> str:
    """Returns the YAML text; each setting stands under what `sotune run --help` says of it."""
    lines = [f"# yaml-language-server: $schema=./{SCHEMA_FILE}"]
    lines += ["# Settings of a run; start it with: sotune run THIS_FILE   (first: sotune doctor THIS_FILE)"]
    lines += [f"# {line}" for line in draft.found]
    for name, value in draft.settings.items():
        lines += ["", *_comment(name, draft.comments.get(name, "")), f"{name}: {_value(value)}"]
    for title, settings in _OPEN.items():
        left = {name: value for name, value in settings.items() if name not in draft.settings}
        if left:
            lines += ["", f"# {title}: remove the # in front of what you want to change."]
        for name, value in left.items():
            lines += [*_comment(name, ""), f"# {name}: {_value(value)}"]
    return "\n".join(lines) + "\n"


def _comment(name: str, extra: str) -> list[str]:
    said = str(RunConfig.model_fields[name].description)
    return [f"# {line}" for line in (said, *([extra] if extra else []))]


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML
